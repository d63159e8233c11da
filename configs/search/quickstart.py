"""A whole search in minutes on two cores: synthetic shapes, a thin student, a small teacher.

    detkds search quickstart

Every value can be changed on the command line: --cfg-options trial.epochs=3 search.population=8
"""

classes = 4
size = 128


def retinanet(depth, channels, neck, convs):
    """Stock RetinaNet options for a thin detector without pre-trained weights."""
    stages = [channels * 2**stage for stage in range(4)]
    if depth >= 50:
        stages = [4 * width for width in stages]
    return {
        "model.backbone.depth": depth,
        "model.backbone.base_channels": channels,
        "model.backbone.stem_channels": channels,
        "model.backbone.frozen_stages": -1,
        "model.backbone.norm_eval": False,
        "model.backbone.init_cfg": None,
        "model.neck.in_channels": stages,
        "model.neck.out_channels": neck,
        "model.bbox_head.in_channels": neck,
        "model.bbox_head.feat_channels": neck,
        "model.bbox_head.stacked_convs": convs,
        "model.bbox_head.num_classes": classes,
        "model.neck.num_outs": 4,
        "model.neck.norm_cfg": dict(type="BN"),
        "model.bbox_head.norm_cfg": dict(type="BN"),
        "model.bbox_head.anchor_generator.octave_base_scale": 2,
        "model.bbox_head.anchor_generator.strides": [8, 16, 32, 64],
    }


def schedule(epochs):
    """AdamW with ten iterations of warm-up and a cosine to zero over what follows."""
    return dict(
        epochs=epochs,
        batch_size=8,
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=2e-3, weight_decay=1e-4),
            clip_grad=dict(max_norm=10),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=10),
        ],
    )


stock = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
student = dict(config=stock, cfg_options=retinanet(18, 12, 32, 1))
teacher = dict(config=stock, cfg_options=retinanet(34, 24, 48, 2), schedule=schedule(14))
data = dict(synthetic=dict(train=600, val=8, test=200, size=size, seed=0), image_size=(size, size))
proxy = dict(train_images=200, val_images=100, seed=0)
trial = dict(warmup=schedule(4), **schedule(2))
final = dict(compare=["none", "pkd", "found"], seeds=[0], **schedule(6))
search = dict(population=4, iterations=1, sample_ratio=0.9, top_k=2, weights=12, seed=0)
resources = dict(cpus=1, threads=1)
