"""Each paper's pairs train by the paper's own protocol, with the checkpoints that the paper has."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import mmdet
import pytest
import yaml
from detkds.configs import coco_models, coco_pairs, protocols, search_config
from detkds.search.controller import Controller
from detkds.settings import Schedule, load_config
from detkds.space import SearchSpace, WrongUse

ROOT = Path(__file__).parents[2]


STEPS = "{'type': 'MultiStepLR', 'milestones': [9]}"


def milestones(schedule: Schedule) -> list[int]:
    (steps,) = (s for s in schedule.param_scheduler if s["type"] == "MultiStepLR")
    return steps["milestones"]


@pytest.mark.parametrize(
    ("options", "epochs", "expected"),
    [
        ([], 24, [16, 22]),
        (["final.epochs=12"], 12, [8, 11]),
        (["final={'epochs': 12}"], 12, [8, 11]),
        (["final.epochs=36"], 36, [24, 33]),
        (["final.epochs=3"], 3, [2, 2]),
        (["final.epochs=1"], 1, [1, 1]),
        (["final.param_scheduler.1.milestones=[9]", "final.epochs=12"], 12, [9]),
        ([f"final={{'epochs': 12, 'param_scheduler': [{STEPS}]}}"], 12, [9]),
    ],
)  # fmt: skip
def test_milestones_move_with_the_epochs_unless_they_are_given(options, epochs, expected):
    final = load_config("coco/retinanet_r50__retinanet_x101", options).final
    assert (final.epochs, milestones(final)) == (epochs, expected)


def test_milestones_of_trials_and_of_teachers_move_too(tmp_path):
    steps = "[{'type': 'MultiStepLR', 'by_epoch': True, 'milestones': [3], 'gamma': 0.1}]"
    file = tmp_path / "mine.py"
    text = (ROOT / "configs" / "search" / "quickstart.py").read_text()
    file.write_text(
        text.replace('"custom.py"', f'"{ROOT / "configs" / "search" / "custom.py"}"')
        + f"trial.update(param_scheduler={steps}, epochs=4)\n"
        + f"teacher['schedule'].update(param_scheduler={steps}, epochs=4)\n"
    )
    config = load_config(str(file), ["trial.epochs=8", "teacher.schedule.epochs=12"])
    assert (config.trial.epochs, milestones(config.trial)) == (8, [6])
    assert (config.teacher.schedule.epochs, milestones(config.teacher.schedule)) == (12, [9])
    assert milestones(load_config(str(file)).trial) == [3]


def clip(schedule: Schedule) -> dict | None:
    return schedule.optim_wrapper.get("clip_grad")


def test_detkds_inherits_clips_and_takes_24_epochs():
    config = load_config("coco/gfl_r50__gfl_r101")
    assert config.inherit
    assert (config.final.epochs, clip(config.final)["max_norm"]) == (24, 35)
    assert clip(config.trial)["max_norm"] == 35
    assert config.student.checkpoint is None


def test_a_students_own_optimizer_comes_before_the_protocol():
    config = load_config("coco/deformable_detr_r50__deformable_detr_r101")
    assert config.final.optim_wrapper["optimizer"]["type"] == "AdamW"
    assert clip(config.final)["max_norm"] == clip(config.trial)["max_norm"] == 0.1
    (warmup,) = load_config("coco/fcos_r50__fcos_r101").trial.param_scheduler
    assert warmup["type"] == "ConstantLR"


def test_crosskd_takes_the_students_own_settings():
    config = load_config("coco/gfl_r50__gfl_r101@crosskd")
    assert not config.inherit
    assert (config.final.epochs, milestones(config.final)) == (12, [8, 11])
    assert clip(config.final) is None
    assert config.student.checkpoint is None


def test_fcos_trains_on_two_sizes_with_its_own_optimizer():
    config = load_config("coco/fcos_r50__fcos_r101@crosskd_2x")
    assert config.data.multi_scale == [(1333, 640), (1333, 800)]
    wrapper = config.final.optim_wrapper
    assert wrapper["paramwise_cfg"] == {"bias_lr_mult": 2.0, "bias_decay_mult": 0.0}
    assert wrapper["clip_grad"]["max_norm"] == 35
    assert config.final.param_scheduler[0]["type"] == "ConstantLR"
    assert milestones(config.final) == [16, 22]
    assert milestones(load_config("coco/fcos_r50__fcos_r101@crosskd").final) == [8, 11]


def test_mtpd_starts_from_the_off_the_shelf_student():
    config = load_config("coco/retinanet_r50__htc_r50")
    assert config.student.checkpoint == coco_models()["retinanet_r50"]["checkpoint"]
    assert (config.inherit, config.final.epochs, clip(config.final)) == (False, 12, None)
    config = load_config("coco/mask_rcnn_r18__htc_r50")
    assert config.student.checkpoint.endswith("/data/checkpoints/mask_rcnn_r18.pth")
    assert config.final.optim_wrapper["optimizer"]["lr"] == 0.02


def test_mtpds_small_budget_falls_linearly():
    config = load_config("coco/retinanet_r50__htc_r50@mtpd_mini")
    assert config.final.epochs == 3
    assert [s["type"] for s in config.final.param_scheduler] == ["LinearLR", "PolyLR"]
    assert config.student.checkpoint is not None


def test_sssd_has_a_student_alone_and_its_first_milestone():
    config = load_config("coco/faster_rcnn_r50@sssd")
    assert config.teacher is None
    assert milestones(config.final)[0] * 117_266 / 16 == pytest.approx(120_000, rel=0.03)
    assert config.final.optim_wrapper["optimizer"]["lr"] == 0.02
    assert "pkd" not in config.final.compare


def test_every_pair_names_a_protocol_that_takes_it():
    for name, pair in coco_pairs().items():
        assert protocols()[pair["protocol"]]["teacher"], name
    for protocol, content in protocols().items():
        name = "gfl_r50__gfl_r101" if content["teacher"] else "gfl_r50"
        load_config(f"coco/{name}@{protocol}")


def test_a_pair_without_a_name_for_its_protocol_has_its_own():
    assert search_config("coco/gfl_r18__gfl_r50") == search_config("coco/gfl_r18__gfl_r50@crosskd")
    with pytest.raises(WrongUse, match=r"no such protocol: did you mean crosskd\?"):
        search_config("coco/gfl_r18__gfl_r50@croskd")


@cache
def zoo() -> dict[str, tuple[str, float]]:
    """The config and the box AP of every checkpoint of the model zoo."""
    found = {}
    for file in (Path(mmdet.__file__).parent / ".mim" / "configs").glob("*/metafile.yml"):
        document = yaml.safe_load(file.read_text("utf-8"))
        for model in document.get("Models", []) if isinstance(document, dict) else document:
            metrics = [result.get("Metrics") for result in model.get("Results") or []]
            scores = [m["box AP"] for m in metrics if isinstance(m, dict) and "box AP" in m]
            if "Weights" in model and scores:
                config = model["Config"].removeprefix("configs/")
                found[model["Weights"]] = (config, float(scores[0]))
    return found


def test_every_checkpoint_is_the_model_zoos_for_its_config():
    assert len(zoo()) > 300
    wrong = {
        name: model["checkpoint"]
        for name, model in coco_models().items()
        if "checkpoint" in model
        and zoo().get(model["checkpoint"], (None,))[0] != model["config"].removeprefix("mmdet::")
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("mask_rcnn_r50", 38.2),  # MTPD, Teacher I
        ("fcos_r50_giou", 38.7),  # MTPD, Teacher II
        ("htc_r50", 42.3),
        ("detectors_htc_r50", 49.1),
        ("retinanet_r50", 36.5),  # MTPD, Student I; CrossKD, Table 9
        ("retinanet_r50_3x", 39.5),  # CrossKD, Table 5
        ("fcos_r101", 40.8),  # CrossKD, Table 8
        ("atss_r101", 41.5),
        ("gfl_r50", 40.2),
        ("faster_rcnn_r101", 39.8),  # DetKDS, Table 6
        ("retinanet_r101", 38.9),
        ("retinanet_x101", 41.6),  # DetKDS, Table 9
        ("cascade_mask_rcnn_x101", 45.6),
        ("reppoints_x101", 44.2),
    ],
)
def test_a_checkpoint_has_the_ap_that_the_paper_prints(model, published):
    assert zoo()[coco_models()[model]["checkpoint"]][1] == published


def test_the_number_of_trials_that_the_docs_state_is_the_controllers():
    """(P, T, r, k) = (20, 40, 0.9, 5), and the other reading of T."""
    counts = []
    for options in ([], ["search.iterations=20"]):
        config = load_config("coco/retinanet_r50__retinanet_x101", options)
        controller = Controller(SearchSpace.preset(), config.search, seed=0)
        counts.append((controller.planned, config.proxy.train_images, config.proxy.val_images))
    (whole, train, val), (less, *_) = counts
    base = " ".join((ROOT / "configs" / "coco" / "base.py").read_text("utf-8").split())
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    images = f"{whole * train / 1e6:.1f} million images"
    assert f"that is {whole} trials, which train on {images}" in base
    assert f"as {whole * train / 118_287:.0f} epochs of COCO" in base
    assert f"are scored on {whole * val / 1e6:.1f} million" in base
    assert f"{less} trials on {less * train / 1e6:.1f} million images" in base
    hours = [f"{round(count * 7.5 / 60 + 0.01):d}" for count in (whole, less)]
    assert f"{whole} trials take {hours[0]} hours, and {less} take {hours[1]}" in base
    assert f"{whole} trials" in readme
    assert f"{less} trials" in readme
    assert re.search(images, readme)
