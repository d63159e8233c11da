"""A whole search in minutes on two cores: synthetic shapes, a thin student, a small teacher.

    detkds search quickstart

Every value can be changed on the command line: --cfg-options trial.epochs=3 search.population=8
"""


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


four_classes = {"model.bbox_head.num_classes": 4}

student = dict(config="detkds::retinanet_r18_thin.py", cfg_options=four_classes)
teacher = dict(
    config="detkds::retinanet_r34_thin.py", cfg_options=four_classes, schedule=schedule(12)
)
data = dict(synthetic=dict(train=600, val=1, test=200, size=96, seed=0), image_size=(96, 96))
proxy = dict(train_images=320, val_images=120, seed=0)
trial = schedule(6)
final = dict(compare=["none", "pkd", "found"], seeds=[0, 1], **schedule(8))
search = dict(population=3, iterations=1, sample_ratio=0.9, top_k=2, weights=15, seed=0)
resources = dict(cpus=1, threads=1)
