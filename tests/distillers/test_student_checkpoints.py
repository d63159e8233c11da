"""A saved student is a plain mmdet state dict, whoever saves it: torch, EMA or a Runner."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from detkds.data import CLASSES, ShapesFiles, make_shapes
from detkds.detectors import TeacherMemory, build_detector, load_weights
from detkds.detectors.checkpoints import allow_runner_resume
from detkds.distillers import DistilledDetector
from detkds.space import Distiller, WrongUse
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from thin_detectors import ALL_TERMS, FEATURE_TERMS, batch, thin_config, thin_detector, total
from torch import Tensor


def distilled(family: str = "retinanet", seed: int = 0) -> DistilledDetector:
    """A pair with adapters, since the teacher's neck is wider."""
    teacher = thin_detector(family, seed=1, neck=24)
    return DistilledDetector(thin_detector(family, seed), teacher, FEATURE_TERMS)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("family", ["retinanet", "fcos", "gfl", "atss", "faster_rcnn"])
def test_a_state_dict_is_the_plain_students(family: str) -> None:
    model, plain = distilled(family), thin_detector(family)
    state = model.state_dict()
    assert same(state, plain.state_dict())
    other = thin_detector(family, seed=5)
    other.load_state_dict(state, strict=True)
    assert same(other.state_dict(), plain.state_dict())


def test_a_plain_students_state_dict_loads() -> None:
    model, plain = distilled(), thin_detector("retinanet", seed=5)
    adapters = copy.deepcopy(model.distillation_state())
    model.load_state_dict(plain.state_dict(), strict=True)
    assert same(model.student.state_dict(), plain.state_dict())
    assert same(model.distillation_state(), adapters), "not touched by the student's weights"
    assert len(adapters) == 10


def test_what_does_not_fit_is_still_an_error() -> None:
    model = distilled()
    state = model.state_dict()
    missing = dict(list(state.items())[1:])
    for wrong in (missing, {**state, "backbone.conv9.weight": torch.zeros(1)}):
        with pytest.raises(RuntimeError, match=r"conv[19]\.weight"):
            model.load_state_dict(wrong, strict=True)
    assert model.load_state_dict(missing, strict=False).missing_keys


def test_inside_of_another_module_the_names_keep_its_prefix() -> None:
    inner, plain = distilled(), thin_detector("retinanet")
    outer = torch.nn.ModuleDict({"module": inner, "other": torch.nn.Linear(2, 2)})
    state = outer.state_dict()
    expected = {f"module.{name}" for name in plain.state_dict()}
    assert state.keys() == expected | {"other.weight", "other.bias"}
    outer.load_state_dict(state, strict=True)


def test_what_the_adapters_learned_comes_back_by_itself() -> None:
    first, second = distilled(), distilled(seed=3)
    assert not same(first.distillation_state(), second.distillation_state())
    second.load_distillation_state(first.distillation_state())
    assert same(first.distillation_state(), second.distillation_state())
    alone = DistilledDetector(thin_detector("retinanet"))
    alone.load_distillation_state({})
    assert alone.distillation_state() == {}


def test_a_copy_shares_the_teacher_and_nothing_else() -> None:
    model = distilled()
    twin = copy.deepcopy(model)
    assert twin.teacher is model.teacher
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    assert same(twin.state_dict(), model.state_dict())
    with torch.no_grad():
        twin.student.backbone.conv1.weight.zero_()
    assert model.student.backbone.conv1.weight.any()
    assert not twin.state_dict()["backbone.conv1.weight"].any()
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(twin.student.backbone.conv1.weight, model.student.backbone.conv1.weight)


def test_a_copy_holds_no_second_teacher_wherever_the_first_is_used() -> None:
    teacher = thin_detector("retinanet", seed=1, neck=24)
    form = Distiller.parse("global: identity, l2 × 1; cross_logits: after_0, quality_focal × 1")
    memory = TeacherMemory(teacher, images=2, megabytes=64)
    model = DistilledDetector(thin_detector("retinanet"), teacher, form, memory=memory)
    copied: dict[int, Any] = {}
    twin = copy.deepcopy(model, copied)
    assert {id(p) for p in model.student.parameters()} <= copied.keys()
    assert not {id(p) for p in teacher.parameters()} & copied.keys()
    assert id(memory) not in copied
    inputs, samples = batch()
    for number, sample in enumerate(samples):
        sample.set_metainfo({"img_path": str(number)})
    total(twin.loss(inputs, samples)).backward()


def test_an_average_of_the_model_averages_the_student() -> None:
    model = distilled().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = ExponentialMovingAverage(model, momentum=0.25, update_buffers=True)
    average.update_parameters(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total(model.loss(*batch())).backward()
    optimizer.step()
    average.update_parameters(model)
    assert average.module.teacher is model.teacher
    state = average.state_dict()
    assert state.keys() == {"steps", *(f"module.{name}" for name in before)}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            expected = 0.75 * before[name] + 0.25 * value
            torch.testing.assert_close(state[f"module.{name}"], expected)
    assert not torch.equal(
        state["module.neck.fpn_convs.0.conv.weight"], before["neck.fpn_convs.0.conv.weight"]
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=1, test=1, size=64)


def training(folder: Path, files: ShapesFiles, iterations: int = 2, **options: Any) -> Runner:
    """A stock mmengine job, which has one import and one model type of detkds."""
    teacher = folder / "teacher.pth"
    if not teacher.exists():
        torch.save(thin_detector("retinanet", seed=1, neck=24).state_dict(), teacher)
        ALL_TERMS.to_json(folder / "best.json")
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(files.train),
        "data_prefix": {"img": str(files.images)},
        "metainfo": {"classes": CLASSES},
        "pipeline": pipeline,
    }
    config = {
        "default_scope": "mmdet",
        "custom_imports": {"imports": ["detkds.distillers"]},
        "model": {
            "type": "DistilledDetector",
            "student": thin_config("retinanet").to_dict(),
            "teacher": thin_config("retinanet", neck=24).to_dict(),
            "teacher_checkpoint": str(teacher),
            "distiller": str(folder / "best.json"),
        },
        "work_dir": str(folder),
        "train_dataloader": {
            "dataset": dataset,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "batch_size": 2,
            "num_workers": 0,
        },
        "train_cfg": {"by_epoch": False, "max_iters": iterations, "val_interval": 100},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.001}},
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 2}
        },
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.5}],
        "randomness": {"seed": 0},
        "experiment_name": f"{folder.name}_{iterations}",
        "log_level": "ERROR",
        **options,
    }
    return Runner.from_cfg(Config(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: ShapesFiles) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    runner = training(folder, shapes)
    runner.train()
    names = set(runner.message_hub.log_scalars)
    assert names >= {f"train/loss_{term.knowledge}" for term in ALL_TERMS.terms}
    theirs = torch.load(folder / "teacher.pth", weights_only=True)
    assert same(dict(runner.model.teacher.state_dict()), dict(theirs)), "as loaded, not trained"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["state_dict", "ema_state_dict"])
def test_a_stock_model_loads_what_a_stock_runner_saved(trained: Path, weights: str) -> None:
    checkpoint = torch.load(trained / "iter_2.pth", weights_only=False)
    state = {name.removeprefix("module."): v for name, v in checkpoint[weights].items()}
    state.pop("steps", None)
    stock = build_detector(thin_config("retinanet"))
    found = stock.load_state_dict(state, strict=False)
    assert found.missing_keys == found.unexpected_keys == []
    stock.train()
    assert torch.isfinite(total(stock.loss(*batch())))
    if weights == "state_dict":
        load_weights(build_detector(thin_config("retinanet")), trained / "iter_2.pth")


@pytest.mark.slow
def test_the_training_moved_the_student(trained: Path) -> None:
    state = torch.load(trained / "iter_2.pth", weights_only=False)["state_dict"]
    torch.manual_seed(0)
    start = thin_detector("retinanet").state_dict()
    moved = [name for name in start if not torch.equal(start[name], state[name])]
    assert "backbone.conv1.weight" in moved
    assert "bbox_head.retina_cls.weight" in moved


@pytest.mark.slow
def test_a_stock_runner_resumes_and_starts_from_a_plain_student(
    trained: Path, shapes: ShapesFiles
) -> None:
    saved = torch.load(trained / "iter_2.pth", weights_only=False)["state_dict"]
    torch.save(
        {"state_dict": thin_detector("retinanet", seed=9).state_dict()}, trained / "plain.pth"
    )
    with allow_runner_resume():
        resumed = training(trained, shapes, iterations=4, resume=True)
        resumed.train()
        assert resumed.iter == 4
        again = torch.load(trained / "iter_4.pth", weights_only=False)["state_dict"]
        assert list(again) == list(saved)
        plain = str(trained / "plain.pth")
        started = training(trained, shapes, 3, load_from=plain, custom_hooks=[])
        started.load_or_resume()
    expected = thin_detector("retinanet", seed=9).state_dict()
    assert same(dict(started.model.state_dict()), dict(expected))


def test_a_checkpoint_of_another_teacher_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(thin_detector("retinanet").state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(WrongUse, match=r"narrow\.pth: the checkpoint fits another model"):
        DistilledDetector(
            thin_config("retinanet"),
            thin_config("retinanet", neck=24),
            FEATURE_TERMS,
            teacher_checkpoint=str(tmp_path / "narrow.pth"),
        )
