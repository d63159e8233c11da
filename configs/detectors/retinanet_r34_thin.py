"""A teacher for ``retinanet_r18_thin``: RetinaNet R34, twice as wide, 3.3 M parameters."""

_base_ = "./retinanet_r18_thin.py"

model = dict(
    backbone=dict(depth=34, base_channels=24, stem_channels=24),
    neck=dict(in_channels=[24, 48, 96, 192], out_channels=48),
    bbox_head=dict(in_channels=48, feat_channels=48, stacked_convs=2),
)
