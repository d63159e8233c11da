"""The README's commands as a newcomer types them, in one empty folder, on smaller data.

What is added to a command makes it smaller, and no more. A command that needs COCO, a GPU or a
cluster is in :data:`ELSEWHERE`; the last test finds a command that is neither there nor typed.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import detkds
import mmdet
import pytest
import readme
import tiny
import torch
from browser import looked_at
from detkds.data import read_annotations, write_annotations
from detkds.db import Store
from detkds.search import api
from detkds.space import Distiller, Status
from real_data import BCCD, TINY_COCO
from two_configs import weights_of

pytestmark = pytest.mark.slow

#: Why a command is not typed here, by a part of it.
ELSEWHERE = {
    "coco/": "needs COCO",
    "paper:": "needs COCO",
    "--gpus": "needs GPUs",
    "--submit": "tests/cli/test_submit.py starts the cluster that it needs",
}
#: What stands for the names that commands leave open, after a word; then after any word.
AFTER = {
    **{("--student", "S"): "my_student.py", ("--teacher", "T"): "my_teacher.py"},
    **{("--teacher-checkpoint", "F"): "best.pth", ("--csv", "F"): "trials.csv"},
    **{("--distiller", "F"): "runs/quickstart/quickstart.json", ("--out", "F"): "copy.json"},
    **{("show", "F"): "runs/quickstart/quickstart.json", ("--work-dir", "D"): "runs/quickstart"},
    **{("--out", "DIR"): "mini", ("search", "CONFIG"): "quickstart"},
    **{("--student", "…"): "my_student.py", ("--teacher", "…"): "my_teacher.py"},
    **{("--teacher-checkpoint", "…"): "best.pth"},
    ("--distiller", "found.json"): "runs/my_student/my_student.json",
}
OPEN = {
    **{"CONFIG": "quickstart", "NAME": "quickstart", "N": "8", "M": "4", "17": "7"},
    **{"A,B": "r18,r34", "PAPER/TABLE": "crosskd/7"},
    "ANN": str(TINY_COCO / "annotations" / "instances_train2017.json"),
}
#: What makes the two mmdet configs' search small, and that of one's own cells. Nothing is fetched.
FEW = (
    *("search.divide=False", "search.algorithm=random", "search.trials=2", "search.start=[]"),
    *("confirm=None", "proxy.train_images=16", "proxy.val_images=8"),
    *("resources.dashboard=False", "resources.workers=1"),
)
CELLS = (
    *(*FEW, "data.image_size=(64,64)", "trial.epochs=1", "final.epochs=1", "final.seeds=[0]"),
    *("final.compare=['none','found']", "student.cfg_options.model.backbone.init_cfg=None"),
    "student.cfg_options.model.backbone.depth=18",
)
#: A user's RTMDet: mmdet's own, thin, with its own pipeline at 64 pixels; the second epoch has no
#: mosaic and no mixup any more.
RTMDET = """
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=0.1, widen_factor=0.125, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(num_classes=3, in_channels=32, feat_channels=32))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
crop = [
    dict(type='RandomResize', scale=(128, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 114, 114)))]
mosaic = dict(type='CachedMosaic', img_scale=(64, 64), pad_val=114.0, max_cached_images=20)
mixup = dict(
    type='CachedMixUp', img_scale=(64, 64), ratio_range=(1.0, 1.0), max_cached_images=10,
    pad_val=(114, 114, 114))
pack = dict(type='PackDetInputs')
files = dict(
    data_prefix=dict(img='IMAGES/'),
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = test_pipeline[2].size = (64, 64)
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(
        data_root='.', ann_file='cells/train.json', pipeline=[*load, mosaic, *crop, mixup, pack],
        **files))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='.', ann_file='cells/test.json', pipeline=test_pipeline, **files))
val_evaluator = dict(ann_file='cells/test.json')
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True),
    dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=[*load, *crop, pack])]
train_cfg = dict(max_epochs=2, val_interval=1, dynamic_intervals=None)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
"""
#: The words of the commands that were typed, names filled in.
typed: set[tuple[str, ...]] = set()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two mmdet configs, a teacher's weights, and cells if there are any."""
    folder = tmp_path_factory.mktemp("home")
    if BCCD.is_dir():
        (folder / "cells").mkdir()
        for name, count in {"train": 24, "test": 8}.items():
            document = read_annotations(BCCD / f"{name}.json")
            few = document["images"][:count]
            ids = {one["id"] for one in few}
            boxes = [one for one in document["annotations"] if one["image_id"] in ids]
            write_annotations(
                folder / "cells" / f"{name}.json", {**document, "images": few, "annotations": boxes}
            )
        (folder / "cells" / "images").symlink_to(BCCD / "images")
    for name in ("my_student.py", "my_teacher.py"):
        (folder / name).write_text(RTMDET.replace("IMAGES", str(BCCD / "images")))
    for file in ("best.pth", "my_teacher.pth"):
        weights_of(folder / "my_teacher.py", folder / file)
    return folder


@pytest.fixture
def cells() -> None:
    if not BCCD.is_dir():
        pytest.skip(f"no {BCCD}")


def filled(command: str) -> list[str]:
    """The words of a command, with names in the places that it leaves open."""
    if command.startswith("detkds train …"):
        command = command.replace("…", "CONFIG --distiller F", 1)
    words = shlex.split(command)[1:]
    pairs = zip(["", *words], words, strict=False)
    return [AFTER.get((before, word), OPEN.get(word, word)) for before, word in pairs]


def here() -> list[tuple[str, list[str]]]:
    """The README's commands that need nothing but this machine, and their words, filled in."""
    every = readme.commands(together=False)
    return [(one, filled(one)) for one in every if not any(part in one for part in ELSEWHERE)]


def type_in(home: Path, part: str, *smaller: str, code: int = 0) -> str:
    """Type each command of the README that holds ``part``, if the same was not typed before.

    ``smaller``: options for ``--cfg-options``; the command's own come after these. Returns what the
    last one printed.
    """
    found = [words for command, words in here() if part in command and tuple(words) not in typed]
    assert found, f"the README has no other {part}"
    for words in found:
        typed.add(tuple(words))
        if smaller:
            place = words.index("--cfg-options") if "--cfg-options" in words else len(words)
            words[place : place + 1] = ["--cfg-options", *smaller]
        done = tiny.run_here(["detkds", *words], home)
        assert done.returncode == code, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_a_search_goes_on_to_the_students_training_along_its_teachers(home: Path) -> None:
    """The student is trained alone for 2 epochs and measured; the table shows the last stage."""
    printed = type_in(home, "'progressive'", *tiny.OPTIONS, "final.epochs=2")
    (line,) = (line for line in printed.splitlines() if line.startswith("teachers: "))
    order = line.removeprefix("teachers: ").split(" → ")
    with Store(f"sqlite:///{home}/runs/quickstart/detkds.db") as store:
        rows = store.trainings(store.search("quickstart").id)
    stages = [f"quickstart {i}/{len(order)} {name}" for i, name in enumerate(order, 1)]
    names = [row.name for row in rows]
    assert {*names} >= {"teacher", *order}
    assert names[-len(order) :] == stages
    (line,) = (line for line in printed.splitlines() if line.startswith("progressive: "))
    assert Path(line.removeprefix("progressive: ")).is_file()
    assert f"{100 * rows[-1].score:.1f}" in next(
        line for line in printed.splitlines() if "│ progressive" in line
    )


def test_step_by_step(home: Path) -> None:
    """The search is done already, and its name is taken; costs, and so the order, are known."""
    small = (*tiny.OPTIONS, "final.epochs=2")
    whole = (*small, "final.compare=['none','found','progressive']")
    assert type_in(home, "detkds teachers quickstart", *small).count("→")
    type_in(home, "quickstart.json --teachers auto", *small)
    type_in(home, "detkds search quickstart", *whole, code=2)
    type_in(home, "detkds search CONFIG --resume", *whole)
    type_in(home, "detkds search --work-dir D --resume")


def test_the_table_of_commands(home: Path) -> None:
    small = (*tiny.OPTIONS, "final.epochs=2")
    type_in(home, "detkds check CONFIG", *small)
    for command in ("searches", "trials NAME", "log NAME", "export NAME", "report NAME"):
        type_in(home, f"detkds {command}")
    written = ("trials.csv", "copy.json", "F.md", "F.log", "F.html")
    assert [name for name in written if not (home / name).is_file()] == []
    type_in(home, "detkds watch NAME")
    assert Distiller.from_json(home / "copy.json").terms
    for command in ("show F", "papers", "space"):
        type_in(home, f"detkds {command}")
    type_in(home, "--export-config OUT.py", *small, f"teacher.checkpoint={teacher_of(home)}")
    assert (home / "OUT.py").is_file()
    type_in(home, "final.val_interval=2", *small)
    (best,) = home.glob("runs/quickstart/trained/*/best_*.pth")
    assert best.is_file()
    type_in(home, "--simultaneous", *small)
    type_in(home, "detkds db ")


def teacher_of(home: Path) -> str:
    """The file of the search's teacher."""
    with Store(f"sqlite:///{home}/runs/quickstart/detkds.db") as store:
        (file, *_) = (row.checkpoint for row in store.trainings() if row.name == "teacher")
    assert file is not None
    return file


def test_a_proxy_is_drawn(home: Path) -> None:
    if not Path(OPEN["ANN"]).is_file():
        pytest.skip(f"no {OPEN['ANN']}")
    assert "deviation" in type_in(home, "detkds proxy ANN")
    assert {file.name for file in (home / "mini").iterdir()} >= {"train.json", "val.json"}


def test_two_mmdet_configs_are_searched_and_trained(home: Path, cells: None) -> None:
    """RTMDet's mosaic, mixup, moving average and change of pipeline, on a few real images."""
    printed = type_in(home, "detkds search --student my_student.py", *FEW)
    assert "derived  proxy: of 24 training images, trials train on 16" in printed
    found = home / "runs/my_student/my_student.json"
    assert f"distiller: {found.relative_to(home)}" in printed, "even if no trial has learned"
    type_in(home, "detkds train --student my_student.py", *FEW)
    (checkpoint,) = home.glob("runs/my_student/trained/*/student.pth")
    classes = torch.load(checkpoint)["meta"]["dataset_meta"]["classes"]
    assert classes == ("RBC", "WBC", "Platelets")
    assert list(checkpoint.parent.glob("*/vis_data/scalars.json"))
    assert list(checkpoint.parent.glob("epoch_2.pth")), "mmengine's own checkpoint"
    type_in(home, "--dry-run")


def test_mmdets_own_script_trains_what_is_exported(home: Path, cells: None) -> None:
    type_in(home, "--export-config out.py", *FEW, "train_cfg.max_epochs=1")
    (line,) = [line for line in readme.lines() if line.startswith("python tools/train.py")]
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    if not script.is_file():
        pytest.skip("this mmdet has no scripts with it")
    command = [sys.executable, str(script), *line.split()[2:]]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_cells_are_searched_by_a_config_of_ones_own(home: Path, cells: None) -> None:
    printed = type_in(home, "detkds search custom --name cells", *CELLS)
    assert "distiller: runs/cells/cells.json" in printed or "distiller: runs/custom" in printed
    found = next(home.glob("runs/*/cells.json"))
    assert json.loads(found.read_text())


def test_a_browser_opens_the_reports(home: Path, tmp_path: Path) -> None:
    pages = sorted(home.glob("runs/*/*.html"))
    assert pages
    for page in pages:
        looked = looked_at(page, tmp_path)
        assert looked["rising"] == sorted(looked["rising"], key=lambda cell: float(cell or "inf"))


def test_the_python_of_the_readme_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has what the store has."""
    (text,) = [text for text in readme.blocks("python") if "detkds.search(" in text]
    options = [*tiny.OPTIONS, "search.knowledge=['logits']", "search.population=1"]
    options += ["search.iterations=0", "final=None"]
    monkeypatch.setattr(detkds, "search", partial(api.search, cfg_options=options))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(text, names)
    with Store(f"sqlite:///{tmp_path}/runs/quickstart/detkds.db") as store:
        best = store.best(store.search("quickstart").id)
    assert best is not None
    result = names["result"]
    assert (result.best.key, result.score) == (best.key, best.score)
    assert detkds.load_distiller("best.json") == result.best
    assert detkds.load_distiller("runs/quickstart/quickstart.json") == result.best
    assert list(names["trials"]["score"]) == list(result.trials["score"])
    assert names["pkd"] == Distiller.parse("global: identity, pearson × 5")
    with pytest.raises(detkds.space.WrongUse, match="resume it or give another name"):
        detkds.search("quickstart", work_dir="runs/quickstart")


def test_in_the_end_files_are_cleaned_up_and_the_search_deleted(home: Path) -> None:
    type_in(home, "detkds clean NAME")
    type_in(home, "detkds delete NAME")
    with Store(f"sqlite:///{home}/runs/quickstart/detkds.db") as store:
        assert store.find_search("quickstart") is None
        assert {row.status for row in store.trainings()} <= {Status.COMPLETED}


def test_every_command_of_the_readme_was_typed(home: Path) -> None:
    rest = [command for command, words in here() if tuple(words) not in typed]
    if not BCCD.is_dir():
        rest = [one for one in rest if not re.search(r"student|cells|proxy", one)]
    assert rest == []
