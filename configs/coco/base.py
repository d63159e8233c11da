"""A search, and trainings, on COCO as in the papers, for any pair of pairs.json:

    detkds search coco/retinanet_r50__retinanet_x101
    detkds train coco/retinanet_r50__retinanet_x101 --distiller detkds_one_stage

Student, teacher and learning rate come from the pair. Trainings: 24 epochs, SGD of momentum 0.9 and
decay 1e-4, 16 images a step (8 cards of 2 in the papers; on a smaller card batch_size=2 with
optim_wrapper.accumulative_counts=8 does the same, since stock models freeze their batch norm).
Trials: one epoch on a mini-COCO of 25,000 images, scored on 5,000 others of the training set,
(P, T, r, k) = (20, 40, 0.9, 5) (DetKDS Section 4.1). Gradients are clipped and neck and head taken
over from the teacher as in FGD, whose settings DetKDS follows.
"""


def sgd(epochs, milestones):
    """Steps by 0.1 after the milestones, in epochs, and a warm-up of 500 iterations."""
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
