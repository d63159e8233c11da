"""A plan names its trainings after everything that they depend on, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from detkds.data import make_shapes
from detkds.data.inspection import Opened
from detkds.detectors import build_detector, model_config
from detkds.search.plans import keys
from detkds.search.plans.checks import read_data
from detkds.search.plans.full import final_trainings
from detkds.search.plans.plan import Plan, make_plan
from detkds.settings import SearchConfig, load_config
from detkds.space import Distiller, WrongUse
from detkds.workers.training import Training

THIN = "detkds::retinanet_r18_thin.py"
FOUND = Distiller.parse("global: identity, l2 × 1")
LABEL = Distiller.parse("label: identity, jensen_shannon × 1")


@pytest.fixture
def shapes(tmp_path: Path) -> list[str]:
    """The options of a search on real files whose teacher has a checkpoint."""
    files = make_shapes(tmp_path / "shapes", train=12, val=4, test=4, size=64)
    save_teacher(tmp_path / "teacher.pth", seed=0)
    return [
        f"data.train.annotations={files.train}", f"data.train.images={files.images}",
        f"data.test.annotations={files.test}", f"data.test.images={files.images}",
        "student.cfg_options.model.bbox_head.num_classes=4",
        "teacher.cfg_options.model.bbox_head.num_classes=4",
        f"teacher.config={THIN}", f"teacher.checkpoint={tmp_path}/teacher.pth",
        "proxy.train_images=8", "proxy.val_images=4", "data.image_size=(64,64)",
        "final.compare=['none','found']", "final.seeds=[0]", "resources.dashboard=False",
    ]  # fmt: skip


def save_teacher(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = build_detector(model_config(THIN, {"model.bbox_head.num_classes": 4}))
    torch.save({"state_dict": model.state_dict()}, path)


def planned(folder: Path, *options: str) -> Plan:
    return make_plan(load_config("custom", options), folder / "run")


def folders(plan: Plan, found: Distiller = FOUND) -> list[str]:
    """The folders of the student's training alone and with the found distiller."""
    return [training.folder for training in final_trainings(plan, {"found": found})]


def relabel(options: list[str], split: str) -> None:
    (path,) = (o.partition("=")[2] for o in options if o.startswith(f"data.{split}.annotations"))
    document = json.loads(Path(path).read_text("utf-8"))
    document["annotations"][0]["bbox"][2] += 1
    Path(path).write_text(json.dumps(document), "utf-8")


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_labels_in_the_same_file_are_another_training(
    tmp_path: Path, shapes: list[str], split: str
) -> None:
    alone, found = folders(planned(tmp_path, *shapes))
    relabel(shapes, split)
    assert {alone, found}.isdisjoint(folders(planned(tmp_path, *shapes)))


def test_other_weights_in_the_teachers_file_are_another_training(
    tmp_path: Path, shapes: list[str]
) -> None:
    alone, found = folders(planned(tmp_path, *shapes))
    save_teacher(tmp_path / "teacher.pth", seed=1)
    again, other = folders(planned(tmp_path, *shapes))
    assert found != other
    assert alone == again, "nothing of the teacher is in it"


def test_what_a_machine_has_does_not_make_another_training(
    tmp_path: Path, shapes: list[str]
) -> None:
    plan = planned(tmp_path, *shapes)
    more = ["resources.threads=2", "data.cache_megabytes=7", "trial.epochs=9"]
    assert folders(plan) == folders(planned(tmp_path, *shapes, *more))


OPTIMIZER = "{'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.5}}"


#: Options, and the settings that each option changes among those that scores depend on.
CHANGES: dict[str, list[str]] = {
    "trial.epochs=9": ["trial.epochs"],
    f"trial.optim_wrapper={OPTIMIZER}": ["trial.optim_wrapper"],
    "search.seed=3": ["search.seed"],
    "inherit=True": ["inherit"],
    "data.flip=0": ["data.flip"],
    "data.image_size=(48,64)": ["data.image_size"],
    "data.teacher_image_size=(128,128)": ["data.teacher_image_size"],
    "data.multi_scale=[(48,48),(64,64)]": ["data.multi_scale"],
    "proxy.seed=1": ["proxy.seed"],
    "proxy.train_images=7": ["proxy.train_images"],
    "student.cfg_options.model.bbox_head.stacked_convs=3": ["student.cfg_options"],
    "teacher.checkpoint={folder}/other.pth": ["teacher.checkpoint"],
    "data.cache_megabytes=7": [],
    "data.num_workers=2": [],
    "resources.threads=2": [],
    "final.epochs=9": [],
    "search.population=9": [],
    "search.start=['pkd']": [],
}


def conditions(config: SearchConfig, folder: Path) -> tuple[str, dict]:
    """The key of a config's conditions, and the config as the store keeps it."""
    data = read_data(config, folder, Opened())
    trial_keys = keys.TrialKeys(
        student=keys.model_key(config.student),
        teacher=keys.teacher_key(config.teacher, config.data, data.train_key),
        proxy=keys.proxy_key(config.proxy, data.train_key),
    )
    values = keys.condition_values(config, trial_keys)
    record = {**config.model_dump(mode="json"), keys.VALUES: values}
    return keys.conditions_key(config, trial_keys), record


def test_conditions_change_if_and_only_if_a_setting_is_named(
    tmp_path: Path, shapes: list[str]
) -> None:
    save_teacher(tmp_path / "other.pth", seed=1)
    plan = planned(tmp_path, *shapes)
    before = plan.conditions, plan.record
    assert conditions(plan.config, tmp_path) == before
    for option, changed in CHANGES.items():
        config = load_config("custom", [*shapes, option.replace("{folder}", str(tmp_path))])
        after = conditions(config, tmp_path)
        assert keys.changed_conditions(before[1], after[1]) == changed, option
        assert (after[0] != before[0]) == bool(changed), option


def test_an_older_config_lacks_settings_that_were_off() -> None:
    new = load_config("quickstart").model_dump(mode="json")
    old = {name: section for name, section in new.items() if name not in ("inherit", "search")}
    old["data"] = {
        k: v for k, v in new["data"].items() if k not in ("teacher_image_size", "multi_scale")
    }
    new[keys.VALUES] = dict.fromkeys(keys.CONDITIONS, "")
    version = "the version of detkds"
    assert keys.changed_conditions(old, new) == [version]
    assert keys.changed_conditions(old, {**new, "inherit": True}) == ["inherit", version]


def test_every_setting_that_scores_depend_on_exists() -> None:
    split = {f"{part}.{name}" for part in ("train", "val") for name in ("annotations", "images")}
    for path in [path for one in keys.CONDITIONS.values() for path in one.settings]:
        section, _, name = path.partition(".")
        fields = SearchConfig.model_fields
        assert section in fields, path
        if name:
            kinds = [fields[section].annotation, *get_args(fields[section].annotation)]
            (model,) = (kind for kind in kinds if hasattr(kind, "model_fields"))
            assert name.split(".")[0] in model.model_fields, path
            assert "." not in name or name in split, path


def test_a_warm_up_is_of_one_size(tmp_path: Path, shapes: list[str]) -> None:
    schedule = (
        "{'epochs': 1, 'batch_size': 2, 'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1}}}"
    )
    shapes = [*shapes, f"trial.warmup={schedule}"]
    names = {planned(tmp_path, *shapes, *more).warmup.folder for more in ([], ["data.flip=0"])}
    names.add(planned(tmp_path, *shapes, "data.image_size=(96,96)").warmup.folder)
    assert len(names) == 3


def test_a_teacher_goes_with_whoever_takes_something_from_it(
    tmp_path: Path, shapes: list[str]
) -> None:
    """With inherit=True a distiller of labels alone inherits neck and head too, as in trials."""
    learners = {}
    for inherit in (False, True):
        plan = planned(tmp_path, *shapes, f"inherit={inherit}")
        for name, distiller in (("found", FOUND), ("label", LABEL)):
            alone, found = final_trainings(plan, {"found": distiller})
            assert (alone.teachers, alone.inherit) == ([], False)
            learners[name, inherit] = (bool(found.teachers), found.inherit)
    assert learners == {
        ("found", False): (True, False),
        ("found", True): (True, True),
        ("label", False): (False, False),
        ("label", True): (True, True),
    }


def test_a_found_distiller_without_terms_trains_the_student_alone(
    tmp_path: Path, shapes: list[str]
) -> None:
    """As the row ``none`` does, and beside it not at all: under the same key, with no teacher."""
    for inherit in (False, True):
        plan = planned(tmp_path, *shapes, f"inherit={inherit}")
        (alone,) = final_trainings(plan, {"found": Distiller(())})
        assert alone.name == "none"
        lonely = planned(tmp_path, *shapes, f"inherit={inherit}", "final.compare=['found']")
        (found,) = final_trainings(lonely, {"found": Distiller(())})
        assert (found.teachers, found.inherit, found.distiller) == ([], False, None)
        assert found.folder.rpartition("-")[2] == alone.folder.rpartition("-")[2]


def test_the_best_presets_row_has_its_name(tmp_path: Path, shapes: list[str]) -> None:
    plan = planned(tmp_path, *shapes, "final.compare=['none','best_preset','found']")
    preset = replace(FOUND, name="pkd")
    rows = final_trainings(plan, {"found": FOUND, "best_preset": preset})
    assert [training.name for training in rows] == ["none", "pkd", "found"]
    assert [t.name for t in final_trainings(plan, {"found": FOUND})] == ["none", "found"]


def test_a_plan_has_the_models_of_an_order_if_one_is_asked_for(
    tmp_path: Path, shapes: list[str]
) -> None:
    weights = {"config": THIN, "checkpoint": f"{tmp_path}/teacher.pth"}
    weights["cfg_options"] = {"model.bbox_head.num_classes": 4}
    untrained = {k: v for k, v in weights.items() if k != "checkpoint"}
    shapes = [*shapes, f"teachers={ {'a': weights, 'b': untrained} }"]
    config = load_config("custom", shapes)
    assert make_plan(config, tmp_path / "run").pool == ()
    student, first, second = make_plan(config, tmp_path / "run", pool=True).pool
    assert [one.name for one in (student, first, second)] == ["student", "a", "b"]
    assert student.training.name == "none", "the student that the final table trains alone"
    assert (first.training, first.model.checkpoint) == (None, f"{tmp_path}/teacher.pth")
    assert second.training.schedule == config.teacher.schedule
    assert second.model.checkpoint == str(second.training.checkpoint)
    compared = load_config("custom", [*shapes, "final.compare=['found','progressive']"])
    assert len(make_plan(compared, tmp_path / "run").pool) == 3
    assert make_plan(compared, tmp_path / "run", pool=False).pool == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "teachers: the config has 0; an order needs at least 2"),
        (["teachers={'student': {'config': 'x.py'}}"], "teachers.student: the student is no"),
        (
            ["teachers={'a': {'config': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',"
             "'cfg_options': {'model.bbox_head.num_classes': 4}},"
             "'b': {'config': 'detkds::retinanet_r18_thin.py',"
             "'cfg_options': {'model.bbox_head.num_classes': 4}}}"],
            "final.compare: 'progressive' trains under teachers.a too, but ",
        ),
    ],
)  # fmt: skip
def test_a_progressive_row_of_the_final_table_needs_teachers_that_fit(
    tmp_path: Path, shapes: list[str], options: list[str], says: str
) -> None:
    with pytest.raises(WrongUse) as refused:
        planned(tmp_path, *shapes, "final.compare=['found','progressive']", *options)
    assert str(refused.value).startswith(says)
    assert not (tmp_path / "run").exists()


OWN_HEAD = """
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS

@MODELS.register_module()
class MyHead(RetinaHead):
    pass
"""
OWN_CONFIG = """
custom_imports = dict(imports=["my_head"], allow_failed_imports=False)
_base_ = ["{base}"]
model = dict(bbox_head=dict(type="MyHead"))
"""


@pytest.mark.slow
def test_a_worker_knows_the_modules_that_a_config_imports(
    tmp_path: Path, shapes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own model reaches a fresh process as plain data, and is built there."""
    from detkds.detectors import config_path

    (tmp_path / "my_head.py").write_text(OWN_HEAD)
    (tmp_path / "mine.py").write_text(OWN_CONFIG.format(base=config_path(THIN)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, *shapes, "student.config=mine.py")
    assert plan.task.student.imports == ["my_head"]
    code = (
        "import sys\n"
        "from detkds.workers.training import Training\n"
        "from detkds.workers.trial import build_student\n"
        "training = Training.model_validate_json(sys.stdin.read())\n"
        "print(type(build_student(training.model, 0).bbox_head).__name__)\n"
    )
    training: Training = final_trainings(plan, {"found": FOUND})[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=training.model_dump_json(), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "MyHead", done.stderr
