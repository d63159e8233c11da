"""A search and trainings on COCO for any pair of the papers:

    detkds search coco/retinanet_r50__retinanet_x101
    detkds train coco/retinanet_r50__retinanet_x101 --distiller detkds_retinanet_x101
    detkds train coco/gfl_r50__gfl_r101@crosskd --distiller crosskd_gfl
    detkds train paper:crosskd/7/crosskd+pkd

pairs.json has the pairs, with student, teacher and the learning rate of each. protocols.json says
what each paper changes below; a pair has the protocol of the first paper that trains it, and
another one behind an @. papers.json has the rows of the papers' tables (`detkds papers`).

A training takes SGD with momentum 0.9, weight decay 1e-4 and 16 images a step; the papers use 8
cards with 2 images each. One smaller card does the same with batch_size=2 and
optim_wrapper.accumulative_counts=8, because mmdet's models freeze their batch norm and distillers
mean the same loss either way, but for `pearson` of whole maps (PKD), which looks at the whole
batch. A change of the epochs (`final.epochs=12`) moves the milestones along: 16 and 22 of 24 become
8 and 11.

A trial takes one epoch on a mini-COCO of 25,000 images and is scored on 5,000 other images of the
training set (DetKDS, Section 4.1). The same section gives (P, T, r, k) = (20, 40, 0.9, 5), and
speaks of "20 iterations of parallel searching for individual losses and 40 iterations for combined
weights". Here T is 40 for every kind of knowledge, as in Algorithm 1: P + 2T = 100 candidates
each, then 40 for the weights. For five kinds of knowledge that is 540 trials, which train on 13.5
million images (as many as 114 epochs of COCO) and are scored on 2.7 million. The other reading is
search.iterations=20: 340 trials on 8.5 million images.

The paper's own times count less. Table 13 has 5 hours on eight V100 for 40 iterations, 7.5 minutes
each; at 25,000 images an iteration that is 56 images a second, what one trial takes on all eight
cards. So its iterations seem to be single trials. At that rate 540 trials take 68 hours, and 340
take 43.
"""


def sgd(epochs, milestones):
    """SGD: 500 iterations of warm-up; at each milestone (an epoch) the rate falls to a tenth."""
    return dict(
        epochs=epochs,
        batch_size=16,
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
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
teacher = dict(
    schedule=sgd(12, [8, 11])
)  # of a teacher that the model zoo lacks and a paper trains
inherit = False
proxy = dict(train_images=25_000, val_images=5_000, seed=0)
trial = sgd(1, [])
confirm = None  # the paper exports the best trial
final = dict(compare=["none", "pkd", "found"], seeds=[0], **sgd(24, [16, 22]))
search = dict(  # DetKDS's own, which starts from nothing
    space="detkds",
    algorithm="algorithm1",
    start=[],
    population=20,
    iterations=40,
    sample_ratio=0.9,
    top_k=5,
    weights=40,
    seed=0,
)
