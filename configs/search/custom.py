"""A search on your own COCO-format data, with any two mmdet configs, set on the command line:

    detkds search custom --name cells --cfg-options \
        data.train.annotations=cells/train.json data.train.images=cells/images \
        data.test.annotations=cells/test.json data.test.images=cells/images \
        student.config=mmdet::retinanet/retinanet_r18_fpn_1x_coco.py \
        student.cfg_options.model.bbox_head.num_classes=3 \
        teacher.config=my_teacher.py teacher.checkpoint=my_teacher.pth

A teacher without a checkpoint is trained first, by `teacher.schedule`. Trials train and are scored
on a proxy, which is drawn from `data.train`. Only the final table uses `data.test`. The teachers of
an order are scored on `data.val`, images that no detector is trained on. The numbers below suit a
few hundred small images on a CPU. Of the 42 trials, the first score the shipped distillers that
student and teacher can share, and the student alone. The paper's own search is
search.algorithm=algorithm1 search.divide=True search.trials=None search.space=detkds
search.start="[]" with one epoch a trial.
"""


def schedule(epochs, batch_size=8):
    """AdamW with a short warm-up, then a cosine to zero. The options are mmengine's: change any."""
    return dict(
        epochs=epochs,
        batch_size=batch_size,
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=2e-3, weight_decay=1e-4, fused=True),
            clip_grad=dict(max_norm=10),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=10),
        ],
    )


student = dict(config="detkds::retinanet_r18_thin.py", checkpoint=None)
teacher = dict(config="detkds::retinanet_r34_thin.py", checkpoint=None, schedule=schedule(24))
data = dict(
    train=dict(annotations="data/train.json", images="data/images"),
    test=dict(annotations="data/test.json", images="data/images"),
    image_size=(320, 240),
)
proxy = dict(train_images=140, val_images=65, seed=0)
trial = schedule(12)  # without ImageNet weights; with them, one epoch is enough
final = dict(compare=["none", "best_preset", "found"], seeds=[0, 1, 2], **schedule(24))
confirm = dict(candidates=4, rounds=2, seeds=2)  # the best trials again, before one is exported
search = dict(algorithm="thompson", divide=False, trials=42, seed=0)
resources = dict(cpus=1, threads=1, workers=None, gpus=None, address=None)
