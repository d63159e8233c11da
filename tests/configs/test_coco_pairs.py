"""Every pair of ``configs/coco``: it builds without weights and trains a step on real images.

A pair trains a step with its own distiller and with those of the papers' rows for the pair. One
pair of each family is part of ``make test``, with the distillers of its family that no pair before
it has; ``make test-pairs`` runs the others.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import pytest
import torch
from detkds.configs import coco_pairs, distiller_file, papers
from detkds.data.loading import build_dataset
from detkds.detectors import (
    build_detector,
    has_masks,
    model_config,
    signature,
    without_pretrained,
)
from detkds.distillers import DistilledDetector, available_knowledge
from detkds.settings import Data, Split, load_config
from detkds.space import KNOWLEDGE, Distiller, WrongUse
from kinds import CROSS_KNOWLEDGE, RESPONSE_KNOWLEDGE
from mmengine.dataset import pseudo_collate
from real_data import TINY_COCO
from thin_detectors import total

SIZE = (256, 192)
PAIRS = coco_pairs()
#: One pair for each family of student and of teacher, and for each kind of backbone and image size.
REPRESENTATIVES = {
    "atss_r50__atss_r101",
    "deformable_detr_r50__deformable_detr_r101",
    "faster_rcnn_r50__cascade_mask_rcnn_x101",
    "faster_rcnn_r50__faster_rcnn_r101",
    "fcos_r50__fcos_r101",
    "gfl_r18__gfl_r50",
    "mask_rcnn_r18__detectors_htc_r50",
    "mask_rcnn_r18__detectors_mask_rcnn_r50",
    "mask_rcnn_r18__htc_r50",
    "mask_rcnn_r18__mask_rcnn_r50",
    "mask_rcnn_r50__mask_rcnn_swin_t",
    "mask_rcnn_r50_333x200__mask_rcnn_r50_666x400",
    "reppoints_r50__reppoints_r101",
    "retinanet_mobilenet_v2__retinanet_r50",
    "retinanet_r18__retinanet_r50_3x",
    "retinanet_r50__fcos_r50_giou",
    "retinanet_r50__retinanet_swin_t",
}
#: Pairs with the same teacher stand together, so that the teacher is built once.
BY_TEACHER = [
    name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.pairs)
    for name in sorted(PAIRS, key=lambda name: name.split("__")[1])
]


def family(model: str) -> str:
    """A model's name without its depth and width; all low resolutions count as one."""
    return re.sub(r"_[rx]\d+|_[st]$|_3x|_giou", "", re.sub(r"\d+x\d+", "low", model))


def families(pairs: Collection[str]) -> set[str]:
    return {family(model) for pair in pairs for model in pair.split("__")}


def references_of(name: str) -> list[str]:
    """The pair's own distiller and those of the papers' rows for the pair."""
    rows = [
        row
        for paper in papers().values()
        for table in paper.tables.values()
        for row in table.rows.values()
        if row.why is None and row.distiller != "none" and name in row.pairs
    ]
    return [PAIRS[name]["distiller"], *(row.distiller for row in rows)]


def distillers_of(references: list[str]) -> dict[str, Distiller]:
    """The distillers by their references, each once."""
    return {
        reference: Distiller.parse(reference)
        if "," in reference
        else Distiller.from_json(distiller_file(reference))
        for reference in dict.fromkeys(references)
    }


def config(model: dict[str, Any]) -> Any:
    return without_pretrained(model_config(model["config"], model.get("cfg_options")))


def built(model: dict[str, Any], name: str) -> Any:
    detector = build_detector(config(model), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a Swin has no weights to start from
        detector.init_weights()
    return detector


@lru_cache(maxsize=1)
def built_teacher(name: str) -> Any:
    pair = next(pair for key, pair in PAIRS.items() if key.split("__")[1] == name)
    return built(pair["teacher"], "teacher").eval()


@lru_cache(maxsize=2)
def real_batch(masks: bool) -> dict[str, Any]:
    if not TINY_COCO.is_dir():
        pytest.skip(f"no {TINY_COCO}")
    annotations = TINY_COCO / "annotations" / "instances_train2017.json"
    split = Split(annotations=str(annotations), images=str(TINY_COCO / "train2017"))
    data = Data(train=split, image_size=SIZE)
    dataset = build_dataset(split, data, training=True, masks=masks)
    return pseudo_collate([dataset[0], dataset[1]])


def test_every_family_is_represented() -> None:
    assert PAIRS.keys() >= REPRESENTATIVES
    assert families(PAIRS) - families(REPRESENTATIVES) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_TEACHER)
def test_a_pair_trains_a_step(name: str, record_property: Any) -> None:
    """With its own distiller."""
    trains_a_step(name, references_of(name)[:1], record_property)


@pytest.mark.slow
@pytest.mark.pairs
@pytest.mark.parametrize("name", sorted(PAIRS, key=lambda name: name.split("__")[1]))
def test_the_distiller_of_every_row_trains_a_step(name: str, record_property: Any) -> None:
    trains_a_step(name, references_of(name)[1:], record_property)


def trains_a_step(name: str, references: list[str], record_property: Any) -> None:
    pair = PAIRS[name]
    torch.manual_seed(0)
    student = built(pair["student"], "student")
    teacher = built_teacher(name.split("__")[1])
    scale = load_config(f"coco/{name}").data.student_scale
    raw = real_batch(has_masks(config(pair["student"])))
    for reference, distiller in distillers_of(references).items():
        student.zero_grad()
        model = DistilledDetector(student, teacher, distiller, student_scale=scale).train()
        data = model.data_preprocessor(raw, True)
        losses = model.loss(data["inputs"], data["data_samples"])
        terms = {
            term.knowledge: round(float(losses[f"loss_{term.knowledge}"]), 4)
            for term in distiller.terms
        }
        # An untrained DetectoRS gives maps of some 1e7.
        limit = math.inf if "detectors" in name else 1000
        assert all(0 < value < limit for value in terms.values()), (reference, terms)
        total(losses).backward()
        assert torch.isfinite(total(losses))
        without = [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None]
        assert without == [], reference
        record_property(reference, json.dumps(terms))
        print(f"| {name} | {reference} | {terms} | {float(total(losses)):.2f} |")


def test_rows_name_distillers_of_every_kind() -> None:
    everywhere = {reference for name in PAIRS for reference in references_of(name)}
    assert {"mgd", "mgd_two_stage", "crosskd_gfl_pkd", "detkds_retinanet_x101"} <= everywhere


#: A head of each kind that CrossKD's paper distils (Tables 6 and 8), its preset, and the layer
#: after which the preset hands over.
CROSSKD = {
    "retinanet_r18__retinanet_r50_3x": ("crosskd_pkd", 3, "retina_cls", "retina_reg"),
    "fcos_r50__fcos_r101": ("crosskd_fcos", 2, "conv_cls", "conv_reg"),
    "atss_r50__atss_r101": ("crosskd_atss", 3, "atss_cls", "atss_reg"),
    "gfl_r18__gfl_r50": ("crosskd_gfl", 3, "gfl_cls", "gfl_reg"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CROSSKD)
def test_crosskd_trains_a_step_of_the_papers_heads(name: str) -> None:
    """The distillation's gradient ends after three of the four stacked convolutions; FCOS: two."""
    preset, position, *last = CROSSKD[name]
    torch.manual_seed(0)
    student = built(PAIRS[name]["student"], "student")
    teacher = built_teacher(name.split("__")[1])
    distiller = Distiller.from_json(distiller_file(preset))
    model = DistilledDetector(student, teacher, distiller).train()
    assert model.distillation.needs.positions == {position}
    data = model.data_preprocessor(real_batch(False), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    cross = {n: value for n, value in losses.items() if n.startswith("loss_cross")}
    assert all(0 < float(value) < 1000 for value in cross.values()), cross
    torch.stack(list(cross.values())).sum().backward()

    def learned(part: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    head = student.bbox_head
    assert learned(student.backbone)
    assert learned(student.neck)
    for stack in (head.cls_convs, head.reg_convs):
        assert [learned(conv) for conv in stack] == [i < position for i in range(4)]
    assert not any(learned(getattr(head, part)) for part in last)
    assert not learned(teacher)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["retinanet_r18__retinanet_r50_3x", "faster_rcnn_r50__faster_rcnn_r101"]
)
def test_sssd_trains_a_step_without_a_teacher(name: str) -> None:
    torch.manual_seed(0)
    student = built(PAIRS[name]["student"], "student")
    model = DistilledDetector(student, None, Distiller.from_json(distiller_file("sssd"))).train()
    data = model.data_preprocessor(real_batch(False), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    total(losses).backward()
    assert 0 < float(losses["loss_label"]) < 15 * 5 * 0.8326
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_a_search_config(name: str) -> None:
    found = load_config(f"coco/{name}")
    pair = PAIRS[name]
    assert found.student.config == pair["student"]["config"]
    assert found.teacher.checkpoint == pair["teacher"].get("checkpoint")
    epochs = 24 if pair["protocol"] in ("detkds", "mgd") else 12
    assert (found.trial.epochs, found.final.epochs, found.final.batch_size) == (1, epochs, 16)
    assert (found.proxy.train_images, found.proxy.val_images) == (25_000, 5_000)
    settings = found.search
    assert (settings.population, settings.iterations, settings.top_k) == (20, 40, 5)
    rate = {"faster_rcnn": 0.02, "mask_rcnn": 0.02, "deformable_detr": 2e-4}
    family = next((f for f in rate if name.startswith(f)), "others")
    assert found.final.optim_wrapper["optimizer"]["lr"] == rate.get(family, 0.01)


def test_all_kinds_of_knowledge_of_every_distiller_are_there() -> None:
    assert {
        len(Distiller.from_json(distiller_file(p["distiller"])).terms) for p in PAIRS.values()
    } == {1, 2, 3, 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["retinanet_r50__retinanet_x101", "retinanet_r50__fcos_x101", "mask_rcnn_r50__htc_r50"]
)
def test_what_a_pair_shares(name: str) -> None:
    pair = PAIRS[name]
    student = signature(build_detector(config(pair["student"])), "student")
    teacher = signature(built_teacher(name.split("__")[1]), "teacher")
    lacking = {
        "retinanet_x101": (),
        "fcos_x101": RESPONSE_KNOWLEDGE + CROSS_KNOWLEDGE,
        "htc_r50": CROSS_KNOWLEDGE,
    }[name.split("__")[1]]
    expected = tuple(kind for kind in KNOWLEDGE if kind not in lacking)
    assert available_knowledge(student, teacher) == expected


def test_a_pair_that_is_not_there_is_told_the_nearest() -> None:
    with pytest.raises(WrongUse, match=r"did you mean.*retinanet_r50__retinanet_x101"):
        load_config("coco/retinanet_r50__retinanet_x10")
