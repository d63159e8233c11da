"""The memory of a teacher's knowledge stays within its megabytes."""

from __future__ import annotations

import torch
from detkds.detectors import Knowledge, TeacherMemory, teacher_knowledge
from mmdet.structures import DetDataSample
from thin_detectors import thin_detector


def bytes_in(memory: TeacherMemory) -> int:
    return sum(
        level.untyped_storage().nbytes()
        for known in memory._known.values()
        for level in (*known.features, *known.logits, *known.localization)
    )


def levels(knowledge: Knowledge) -> list[torch.Tensor]:
    return [*knowledge.features, *knowledge.logits, *knowledge.boxes]


def test_two_sizes_of_an_image_padded_to_one_shape_are_two_images() -> None:
    teacher = thin_detector("retinanet").eval()
    memory = TeacherMemory(teacher, images=1, megabytes=64, sizes=2)
    for _ in range(2):  # the first time they are new, then they are remembered
        for shape in ((64, 64), (48, 48)):
            image = torch.zeros(1, 3, 64, 64)
            image[..., : shape[0], : shape[1]] = 1
            sample = DetDataSample(metainfo={"img_path": "a", "img_shape": shape})
            truth = teacher_knowledge(teacher, image, [sample], responses=True)
            found = memory(image, [sample], responses=True)
            torch.testing.assert_close(levels(found), levels(truth))
    assert len(memory._known) == 2


def test_the_memory_stays_empty_if_not_all_sizes_fit() -> None:
    teacher = thin_detector("retinanet").eval()
    image = torch.zeros(1, 3, 64, 64)
    sample = DetDataSample(metainfo={"img_path": "a", "img_shape": (64, 64)})
    kept = []
    for sizes in (1, 10_000):
        memory = TeacherMemory(teacher, images=1, megabytes=64, sizes=sizes)
        memory(image, [sample], responses=True)
        kept.append(len(memory._known))
    assert kept == [1, 0]


def test_images_padded_to_many_shapes_do_not_overfill_the_memory() -> None:
    """Batches of mixed aspect ratios pad an image in many ways; each shape takes its own memory."""
    teacher = thin_detector("retinanet").eval()
    memory = TeacherMemory(teacher, images=3, megabytes=1)
    for width in range(64, 64 + 32 * 12, 32):
        for path in "abc":
            sample = DetDataSample(metainfo={"img_path": path, "img_shape": (64, 64)})
            image = torch.randn(1, 3, 64, width)
            seen = memory(image, [sample], responses=True)
            again = memory(image, [sample], responses=True)
            truth = teacher_knowledge(teacher, image, [sample], responses=True)
            for found in (seen, again):
                torch.testing.assert_close(levels(found), levels(truth))
    assert 2**19 < bytes_in(memory) <= 2**20
    assert len(memory._known) < 3 * 12, "the images must be more than fit"
