"""Searches over the extended space, with a teacher and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from detkds.data import make_shapes
from detkds.search.plans.plan import Plan, make_plan
from detkds.settings import load_config
from detkds.space import WrongUse

pytestmark = pytest.mark.slow

EXTENDED = "search.space=extended"
ALL = "search.knowledge=none"
STEPS = "[{'type':'MultiStepLR','milestones':[1],'by_epoch':True}]"
STEPWISE = "label: identity, jensen_shannon × 10 stepwise"


def plan(folder: Path, *options: str) -> Plan:
    return make_plan(load_config("quickstart", [*tiny.OPTIONS, ALL, *options]), folder)


def refused(folder: Path, *options: str) -> str:
    with pytest.raises(WrongUse) as error:
        plan(folder, *options)
    (line,) = str(error.value).splitlines()
    return line


def test_a_pair_searches_what_it_can_share(tmp_path: Path) -> None:
    """Heads of 2 and 3 layers share positions 0 and 1; RetinaNet has no bins."""
    assert plan(tmp_path).space.knowledge == (
        *("global", "fgbg", "instance", "logits", "localization"),
    )
    by_area = plan(tmp_path, EXTENDED, "search.knowledge=['fgbg_area']")
    assert by_area.space.knowledge == ("fgbg_area",), "searched if it is asked for"
    options = plan(tmp_path, EXTENDED).space.options
    assert list(options)[5:] == ["cross_logits", "cross_localization", "label", "mgd"]
    assert options["cross_logits"].transforms == (("identity", "after_0", "after_1"),)
    assert options["cross_localization"].distances == ("giou", "iou", "log_iou")
    assert options["label"].schedules == ("constant",), "a cosine has no milestones"


def test_weights_are_stepwise_where_both_schedules_have_a_step(tmp_path: Path) -> None:
    """Otherwise a search could find a distiller that can't be trained, or that no trial tried."""
    both = [f"trial.param_scheduler={STEPS}", f"final.param_scheduler={STEPS}"]
    long = ["trial.epochs=2", "final.epochs=2"]
    for options, schedules in (
        ([*both, *long], ("constant", "stepwise")),
        ([both[0], *long], ("constant",)),
        ([*both, long[1]], ("constant",)),
    ):
        found = plan(tmp_path, EXTENDED, *options).space.options
        assert {one.schedules for one in found.values()} == {schedules}


def test_labels_alone_need_no_teacher(tmp_path: Path) -> None:
    found = plan(tmp_path, "teacher=none", "final.compare=['none','sssd','found']")
    assert found.space.knowledge == ("label",)
    assert (found.teacher, found.task.teacher) == (None, None)


def test_what_cannot_be_searched_is_told_before_anything_is_made(tmp_path: Path) -> None:
    cross = "search.knowledge=['cross_logits']"
    assert "needs search.space=extended" in refused(tmp_path, cross)
    alone = refused(tmp_path, EXTENDED, "teacher=none", "search.knowledge=['global']")
    assert alone == "search.knowledge: the pair has no 'global': there is no teacher; use label"
    presets = refused(tmp_path, EXTENDED, "teacher=none", "final.compare=['pkd']")
    assert "'global' is learned from a teacher: give `teacher`" in presets
    bins = refused(tmp_path, "final.compare=['crosskd_gfl']")
    assert "the heads answer none" in bins
    steps = refused(tmp_path, "final.compare=['sssd_stepwise']")
    assert steps.startswith("final.param_scheduler: sssd_stepwise has a stepwise weight")
    started = refused(tmp_path, EXTENDED, "search.start=['sssd_stepwise']")
    assert "'stepwise' for label is not in the space" in started
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("distiller", "says"),
    [
        ("crosskd_gfl", "the heads answer none"),
        ("sssd_stepwise", "final.param_scheduler: sssd_stepwise has a stepwise weight"),
    ],
)
def test_a_training_that_cannot_be_leaves_nothing(
    tmp_path: Path, distiller: str, says: str
) -> None:
    done = tiny.run_here(
        tiny.command(
            "train", "quickstart", "--work-dir", tmp_path / "run", "--distiller", distiller
        )
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_images_that_all_lack_boxes(tmp_path: Path) -> None:
    files = make_shapes(tmp_path / "shapes", train=8, val=1, test=1, size=64)
    document = json.loads(files.train.read_text())
    files.train.write_text(json.dumps({**document, "annotations": []}))
    data = f"data={{'train':{{'annotations':'{files.train}','images':'{files.images}'}}," + (
        "'image_size':(64,64),'synthetic':None}"
    )
    message = refused(tmp_path / "run", EXTENDED, "teacher=none", data)
    assert message == f"{files.train}: no image has a box: there is nothing to learn"
