"""A low-resolution student is trained on the images that it is tested on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detkds.data import make_shapes
from detkds.data.loading import build_dataset
from detkds.distillers.observe import student_view
from detkds.settings import Data, Split
from mmengine.dataset import pseudo_collate
from thin_detectors import thin_detector


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    files = make_shapes(tmp_path_factory.mktemp("shapes"), train=6, val=1, test=1, size=128)
    return Split(annotations=str(files.train), images=str(files.images))


def data(split: Split, **options: Any) -> Data:
    sizes = {"image_size": (52, 52), "teacher_image_size": (104, 104)}
    return Data(train=split, **{**sizes, **options})


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("megabytes", [0, 64])
def test_the_students_training_images_are_its_test_images(
    split: Split, flip: int, megabytes: int
) -> None:
    own = data(split, flip=flip, cache_megabytes=megabytes)
    train, test = (build_dataset(split, own, training=on) for on in (True, False))
    for _ in range(2):  # the second time from the cache
        for index in range(len(train)):
            seen, scored = train[index], test[index]["inputs"]
            expected = scored.flip(2) if flip else scored
            assert seen["inputs"].shape == (3, 104, 104)
            assert torch.equal(seen["data_samples"].student_image, expected)


def test_a_student_without_a_larger_teacher_has_no_second_image(split: Split) -> None:
    alone = build_dataset(split, data(split).for_student, training=True)[0]
    assert alone["inputs"].shape == (3, 52, 52)
    assert "student_image" not in alone["data_samples"]


def test_the_student_forward_gets_the_test_images_pixels(split: Split) -> None:
    """Normalised and padded to half of the teachers' batch, 128: no grey level is between them."""
    own = data(split, flip=0)
    student = thin_detector("retinanet")
    raw, scored = (
        pseudo_collate([build_dataset(split, own, training=on)[i] for i in range(3)])
        for on in (True, False)
    )
    batch = student.data_preprocessor(raw, True)
    before = [sample.gt_instances.bboxes.clone() for sample in batch["data_samples"]]
    inputs, samples = student_view(student, batch["inputs"], batch["data_samples"], 0.5)
    expected = student.data_preprocessor(scored, False)["inputs"]
    assert inputs.shape == (3, 3, 64, 64)
    assert torch.equal(inputs[..., :52, :52], expected[..., :52, :52])
    assert not inputs[..., 52:, :].any()
    assert not inputs[..., 52:].any()
    for sample, whole, boxes in zip(samples, batch["data_samples"], before, strict=True):
        assert sample.img_shape == (52, 52)
        assert sample.batch_input_shape == sample.pad_shape == (64, 64)
        torch.testing.assert_close(sample.gt_instances.bboxes, boxes / 2)
        assert torch.equal(whole.gt_instances.bboxes, boxes), "the teachers' sample stays"
        assert "student_image" not in sample


def test_an_image_that_is_rounded_the_other_way_is_cut(split: Split) -> None:
    student = thin_detector("retinanet")
    raw = pseudo_collate([build_dataset(split, data(split, flip=0), training=True)[0]])
    raw["data_samples"][0].student_image = torch.ones(3, 65, 52, dtype=torch.uint8)
    batch = student.data_preprocessor(raw, True)
    inputs, (sample,) = student_view(student, batch["inputs"], batch["data_samples"], 0.5)
    assert inputs.shape == (1, 3, 64, 64)
    assert sample.img_shape == (64, 52)
