"""A search and trainings on COCO with the papers' settings, for any pair of pairs.json:

    detkds search coco/retinanet_r50__retinanet_x101
    detkds train coco/retinanet_r50__retinanet_x101 --distiller detkds_one_stage

The pair sets student, teacher and learning rate. A training takes 24 epochs of SGD with momentum
0.9, weight decay 1e-4 and 16 images a step. The papers use 8 cards with 2 images each. One smaller
card does the same with batch_size=2 and optim_wrapper.accumulative_counts=8, because mmdet's models
freeze their batch norm. A trial takes one epoch on a mini-COCO of 25,000 images and is scored on
5,000 other images of the training set. The search uses (P, T, r, k) = (20, 40, 0.9, 5) (DetKDS
Section 4.1). DetKDS follows FGD's settings: gradients are clipped, and the student inherits the
teacher's neck and head.
"""


def sgd(epochs, milestones):
    """SGD: 500 iterations of warm-up; at each milestone (an epoch) the rate falls to a tenth."""
    return dict(
        epochs=epochs,
        batch_size=16,
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
            clip_grad=dict(max_norm=35, norm_type=2),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
            dict(type="MultiStepLR", by_epoch=True, milestones=milestones, gamma=0.1),
        ],
    )


coco = "data/coco"
data = dict(
    train=dict(
        annotations=f"{coco}/annotations/instances_train2017.json", images=f"{coco}/train2017"
    ),
    test=dict(annotations=f"{coco}/annotations/instances_val2017.json", images=f"{coco}/val2017"),
    image_size=(1333, 800),
    num_workers=4,
)
inherit = True
proxy = dict(train_images=25_000, val_images=5_000, seed=0)
trial = sgd(1, [])
final = dict(compare=["none", "pkd", "found"], seeds=[0], **sgd(24, [16, 22]))
search = dict(population=20, iterations=40, sample_ratio=0.9, top_k=5, weights=40, seed=0)
