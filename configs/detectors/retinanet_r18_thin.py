"""A thin RetinaNet R18 for small images, without pre-trained weights: 0.5 M parameters.

The head's layers are shared by all levels, and so would be the running statistics of their batch
norm: a mixture that fits no level. The head has group norm instead, as mmdet's FCOS, ATSS and GFL.
"""

_base_ = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"

norm = dict(type="BN", requires_grad=True)
model = dict(
    backbone=dict(
        base_channels=12,
        stem_channels=12,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[12, 24, 48, 96], out_channels=32, num_outs=4, norm_cfg=norm),
    bbox_head=dict(
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        norm_cfg=dict(type="GN", num_groups=8, requires_grad=True),
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),
    ),
)
