"""How far a student's maps are from the teacher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detkds.detectors import build_detector, model_config
from detkds.workers.feature_distances import PLACES, _maps, _picture, activity, distance_map

# isort: split
from mmdet.structures import DetDataSample


def test_scale_and_offset_of_a_channel_are_no_distance():
    teacher = torch.randn(5, 9, 7)
    student = teacher * torch.rand(5, 1, 1).add(0.1) + torch.randn(5, 1, 1)
    assert distance_map(student, teacher).abs().max() < 1e-5


def test_its_mean_is_two_minus_twice_the_channels_mean_correlation():
    student, teacher = torch.randn(6, 12, 10), torch.randn(6, 12, 10)
    pairs = zip(student.flatten(1), teacher.flatten(1), strict=True)
    r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    assert distance_map(student, teacher).mean().item() == pytest.approx(2 - 2 * r, abs=1e-4)


def test_a_difference_is_found_where_it_is():
    teacher = torch.randn(4, 20, 20)
    student = teacher.clone()
    student[:, :5, :5] = torch.randn(4, 5, 5)
    found = distance_map(student, teacher)
    assert found[:5, :5].mean() > 10 * found[5:, 5:].mean()


def test_a_smaller_map_is_resized_and_other_channels_are_compared_by_activity():
    teacher = torch.nn.functional.interpolate(torch.randn(1, 3, 6, 6), (12, 12), mode="bilinear")[0]
    smaller = torch.nn.functional.interpolate(teacher[None], (6, 6), mode="bilinear")[0]
    found = distance_map(smaller, teacher)
    assert (tuple(found.shape), found.mean().item() < 0.2) == ((12, 12), True)
    other = torch.cat([teacher, teacher])
    assert distance_map(activity(other), activity(teacher)).abs().max() < 1e-5


def test_what_lies_in_the_padding_is_left_out():
    """A portrait of 64 x 40, which is padded to 64 x 64."""
    options = {"model.bbox_head.num_classes": 4}
    model = build_detector(model_config("detkds::retinanet_r18_thin.py", options)).eval()
    sample = DetDataSample(metainfo={"img_shape": (64, 40), "ori_shape": (64, 40)})
    image = {"inputs": torch.zeros(3, 64, 40, dtype=torch.uint8), "data_samples": sample}
    with torch.no_grad():
        maps = _maps(model, [image], 0, [0, 1])
    assert [tuple(one.shape[1:]) for one in maps] == [(8, 5), (4, 2)]


def test_a_picture_is_small_and_the_mean_of_its_levels():
    levels = [torch.full((50, 100), 1.0), torch.full((25, 50), 2.0), torch.full((7, 13), 6.0)]
    found = _picture(levels)
    assert (len(found), len(found[0])) == (PLACES // 2, PLACES)
    assert {one for row in found for one in row} == {3.0}
