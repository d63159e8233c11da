"""What trainings under several teachers start from, see and are told, as plans have it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch
from detkds.data import make_shapes
from detkds.detectors import build_detector, model_config
from detkds.search.plans import keys
from detkds.search.plans.full import student_training
from detkds.search.plans.plan import Plan, make_plan
from detkds.search.plans.pool import check_levels, check_sizes
from detkds.search.teachers.pool import say_scores, scored_on
from detkds.search.teachers.progressive import progressive_stages
from detkds.search.teachers.simultaneous import simultaneous_training
from detkds.settings import load_config
from detkds.space import Distiller, WrongUse
from detkds.workers.training import Training

PKD = Distiller.parse("global: norm_hw, l2 × 1")
LOGITS = Distiller.parse("logits: softmax_c, l2 × 1")
SIZES = ("teachers.r18.image_size=(96,96)", "teachers.r34.image_size=(128,128)")


def planned(*options: str) -> Plan:
    """The plan of a small quickstart; nothing is written."""
    options = (*tiny.OPTIONS, "final.epochs=4", "final.seeds=[3,4]", *options)
    return make_plan(load_config("quickstart", options), Path("nowhere"), pool=True)


once = cache(planned)  # where no file changes in the meantime


def stages(plan: Plan, seed: int = 4) -> list[Training]:
    return progressive_stages(plan, list(plan.pool[1:]), "pkd", PKD, seed)


def save(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    options = {"model.bbox_head.num_classes": 4}
    model = build_detector(model_config("detkds::retinanet_r18_thin.py", options))
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def test_a_student_starts_from_the_student_trained_alone_under_the_same_seed() -> None:
    plan = once()
    for seed in (3, 4):
        alone = student_training(plan, "none", None, seed)
        first, last = stages(plan, seed)
        together = simultaneous_training(plan, list(plan.pool[1:]), "pkd", PKD, seed)
        assert first.model.checkpoint == together.model.checkpoint == str(alone.checkpoint)
        assert last.model.checkpoint == str(first.checkpoint)
        assert [first.schedule.epochs, last.schedule.epochs] == [2, 2]
    assert plan.pool[0].training == student_training(plan, "none", None, 3), "the costs' student"


@pytest.mark.parametrize("option", ["final.off_the_shelf=False", "inherit=True"])
def test_a_student_may_start_from_nothing(option: str) -> None:
    """A student that inherits would lose what its neck and head have learned."""
    first, last = stages(once(option))
    assert first.model.checkpoint is None
    assert last.model.checkpoint == str(first.checkpoint)
    assert [first.inherit, last.inherit] == [option == "inherit=True", False]


def test_a_student_with_weights_starts_from_them(tmp_path: Path) -> None:
    file = save(tmp_path / "student.pth", seed=0)
    plan = planned(f"student.checkpoint={file}")
    assert plan.pool[0].training is None
    before = stages(plan)
    assert before[0].model.checkpoint == str(file)
    save(file, seed=1)
    after = stages(planned(f"student.checkpoint={file}"))
    assert after[0].folder != before[0].folder, "other weights under the same name"


def test_the_key_of_a_sequence_has_what_it_starts_from_and_what_its_teachers_see() -> None:
    options = ((), ("final.off_the_shelf=False",), ("inherit=True",), SIZES[:1], SIZES)
    folders = {stages(once(*more))[0].folder for more in options}
    assert len(folders) == len(options)
    plan = once()
    names = {Path(stages(plan, seed)[0].folder).parent.name[-8:] for seed in (3, 4)}
    assert len(names) == 2, "each seed has a start of its own"


def test_each_teacher_of_a_sequence_sees_images_of_its_size() -> None:
    """MTPD, Table 13: the student of 0.25x learns from 0.5x, then from 0.75x, then from 1x."""
    plain, plan = once(), once(*SIZES)
    seen = [(stage.data.image_size, stage.data.teacher_image_size) for stage in stages(plan)]
    assert seen == [((64, 64), (96, 96)), ((64, 64), (128, 128))]
    assert [stage.data.student_scale for stage in stages(plan)] == [64 / 96, 0.5]
    student, r18, r34 = plan.pool
    assert [one.image_size for one in plan.pool] == [(64, 64), (96, 96), (128, 128)]
    assert [one.training.data.image_size for one in (student, r18, r34)] == [
        (64, 64), (96, 96), (128, 128)
    ]  # fmt: skip
    assert all(one.training.data.teacher_image_size is None for one in plan.pool)
    assert student.key == plain.pool[0].key, "the student does not depend on its teachers"
    assert student.training.folder == plain.pool[0].training.folder
    assert {one.key for one in plan.pool[1:]}.isdisjoint(one.key for one in plain.pool)


def test_a_teacher_with_weights_has_another_key_at_another_size(tmp_path: Path) -> None:
    file = save(tmp_path / "teacher.pth", seed=0)
    given = (
        "teachers.r18.config=detkds::retinanet_r18_thin.py",
        "teachers.r18.cfg_options.model.backbone.depth=18",
        f"teachers.r18.checkpoint={file}",
    )
    keys = {once(*given, *more).pool[1].key for more in ((), SIZES)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("(32,32)", "is below data.image_size"),
        ("(128,96)", "is not of the shape of data.image_size"),
    ],
)
def test_a_teacher_sees_the_students_images_enlarged(size: str, says: str) -> None:
    with pytest.raises(WrongUse) as refused:
        once(f"teachers.r34.image_size={size}")
    assert str(refused.value).startswith("teachers.r34.image_size: ")
    assert says in str(refused.value)


def test_the_shape_of_333_by_200_is_that_of_1333_by_800() -> None:
    data = load_config("quickstart").data.model_copy(update={"image_size": (333, 200)})
    assert [data.size_fault(size) for size in ((666, 400), (1000, 600), (1333, 800))] == [None] * 3


def test_teachers_at_once_see_images_of_one_size() -> None:
    plan = once(*SIZES)
    with pytest.raises(WrongUse, match=r"teachers.r34.image_size: it is \(128, 128\) and that of"):
        check_sizes(plan.pool[1:])
    same = once(SIZES[0], SIZES[0].replace("r18", "r34"))
    training = simultaneous_training(same, list(same.pool[1:]), "pkd", PKD, 4)
    assert training.data.teacher_image_size == (96, 96)


def test_a_teacher_of_a_larger_size_shares_features_alone() -> None:
    from detkds.search.plans.trainings import check_training

    check_training(once(), LOGITS, once().pool[1:])
    plan = once(*SIZES)
    check_training(plan, PKD, plan.pool[1:])
    with pytest.raises(WrongUse, match="sees images of another size"):
        check_training(plan, LOGITS, plan.pool[1:])
    options = (*tiny.OPTIONS, *SIZES, "final.compare=['found','progressive']")
    config = load_config("quickstart", options)
    with pytest.raises(WrongUse, match=r"final.compare: .progressive. trains under teachers.r18"):
        make_plan(config, Path("nowhere"))


def test_stored_costs_of_another_definition_are_not_used(
    tmp_path: Path, real: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_plan(load_config("custom", real), tmp_path / "run", pool=False).train_key
    before = keys.costs_key(split, 40)
    assert keys.costs_key(split, 40) == before != keys.costs_key(split, 41)
    monkeypatch.setattr(keys, "COSTS", keys.COSTS + 1)
    assert keys.costs_key(split, 40) != before


def test_models_without_a_common_stride_have_no_cost() -> None:
    student, r18, r34 = once().pool
    coarse = replace(r34, signature=replace(r34.signature, strides=(256,)))
    with pytest.raises(WrongUse, match=r"teachers: student has levels of stride \[8, .*share none"):
        check_levels([student, r18, coarse])


class Said(list):
    """A display that keeps what is said."""

    def say(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def real(tmp_path: Path) -> list[str]:
    files = make_shapes(tmp_path / "shapes", train=12, val=4, test=4, size=64)
    teacher = {
        "config": "detkds::retinanet_r18_thin.py",
        "cfg_options": {"model.bbox_head.num_classes": 4},
    }
    weights = {"checkpoint": str(save(tmp_path / "teacher.pth", seed=0))}
    teachers = {"a": teacher, "b": {**teacher, **weights}, "c": {**teacher, **weights, "score": 40}}
    return [
        *(f"data.{s}.annotations={getattr(files, s)}" for s in ("train", "test")),
        *(f"data.{s}.images={files.images}" for s in ("train", "test")),
        f"teachers={teachers}",
        "student.cfg_options.model.bbox_head.num_classes=4",
        "teacher.cfg_options.model.bbox_head.num_classes=4",
        "data.image_size=(64,64)", "proxy.train_images=8", "proxy.val_images=4",
        "resources.dashboard=False",
    ]  # fmt: skip


def test_who_is_scored_on_training_images_is_said_before_it_starts(
    tmp_path: Path, real: list[str]
) -> None:
    plan = make_plan(load_config("custom", real), tmp_path / "run", pool=True)
    said = Said()
    say_scores(plan, said)
    assert scored_on(plan) == plan.proxy[1]
    first, second = said
    assert first.startswith("teachers.a.score: ")
    assert "which it is trained on" in first
    assert second.startswith("teachers.b.score: ")
    assert "which it may have been trained on" in second
    assert not (tmp_path / "run").exists()


def test_teachers_are_scored_on_images_that_nobody_is_trained_on(
    tmp_path: Path, real: list[str]
) -> None:
    val = [o.replace("data.test", "data.val").replace("test.json", "val.json") for o in real[1:4:2]]
    plan = make_plan(load_config("custom", [*real, *val]), tmp_path / "run", pool=True)
    said = Said()
    say_scores(plan, said)
    assert said == []
    assert scored_on(plan).annotations.endswith("val.json")
    assert scored_on(once()).annotations.endswith("data/val.json"), "of synthetic sets"


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_that_nobody_is_trained_on_are_others(
    tmp_path: Path, real: list[str], split: str
) -> None:
    val = [o.replace("data.test", "data.val") for o in real[1:4:2]]
    val = [o.replace("test.json", f"{split}.json") for o in val]
    with pytest.raises(WrongUse, match="share"):
        make_plan(load_config("custom", [*real, *val]), tmp_path / "run", pool=True)
