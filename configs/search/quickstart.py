"""A whole search in minutes on two cores: synthetic shapes, a thin student, a small teacher.

    detkds search quickstart

custom.py sets all other values. The command line can change every value:
--cfg-options trial.epochs=3 search.trials=80
"""

_base_ = "custom.py"

four_classes = {"model.bbox_head.num_classes": 4}

student = dict(cfg_options=four_classes)
teacher = dict(cfg_options=four_classes, schedule=dict(epochs=10))
teachers = dict(  # for `detkds teachers` and `detkds train --teachers`
    r18=dict(
        config="detkds::retinanet_r34_thin.py",
        cfg_options={**four_classes, "model.backbone.depth": 18},
    ),
    r34=dict(config="detkds::retinanet_r34_thin.py", cfg_options=four_classes),
)
data = dict(
    _delete_=True,
    synthetic=dict(train=600, val=100, test=200, size=96, seed=0),
    image_size=(96, 96),
)
proxy = dict(train_images=360, val_images=140)
trial = dict(epochs=6)
final = dict(epochs=7, seeds=[0, 1])
confirm = dict(candidates=3, epochs=8)
search = dict(trials=40)
