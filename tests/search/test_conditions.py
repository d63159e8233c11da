"""Scores are reused under the same pixels, weights, code and versions, and under no others."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import pytest
import tiny
import torch
from detkds.data import make_shapes
from detkds.db import Store
from detkds.search.plans import keys
from detkds.search.plans.full import final_trainings
from detkds.search.plans.plan import Plan, make_data, make_plan
from detkds.search.run import check_name
from detkds.settings import load_config
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse
from detkds.workers.training import train

FOUND = Distiller.parse("global: identity, l2 × 1")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, train=12, val=4, test=4, size=64)
    return folder


def planned(shapes: Path, folder: Path, *options: str) -> Plan:
    """The plan of a search without teacher on the set in ``shapes``."""
    given = [
        *(f"data.{split}.annotations={shapes}/{split}.json" for split in ("train", "test")),
        *(f"data.{split}.images={shapes}/images" for split in ("train", "test")),
        "student.cfg_options.model.bbox_head.num_classes=4", "teacher=None",
        "search.space=extended", "search.knowledge=['label']",
        "proxy.train_images=8", "proxy.val_images=4", "data.image_size=(64,64)",
        "final.compare=['none']", "final.seeds=[0]", "resources.dashboard=False",
    ]  # fmt: skip
    return make_plan(load_config("custom", [*given, *options]), folder)


def known(plan: Plan) -> tuple[str, str]:
    """What scores, and the full training of the student alone, are found by."""
    return plan.trial_conditions, final_trainings(plan, {"found": FOUND})[0].folder


def refusal(plan: Plan, store: Store) -> str:
    with pytest.raises(WrongUse) as refused:
        check_name(plan, store, "a", resume=True)
    assert refused.value.setting == "resume"
    return refused.value.message


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/store.db")


def begin(plan: Plan, store: Store) -> int:
    return store.create_search("a", plan.record, plan.conditions, plan.seed).id


def begin_and_score(plan: Plan, store: Store) -> None:
    """A search without a score would begin anew under any conditions."""
    candidate = Candidate(0, "label", FOUND)
    trial = store.add_trial(begin(plan, store), candidate, 0, plan.trial_conditions, plan.seed)
    store.tell_trial(trial, Outcome(Status.COMPLETED, score=0.5), 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_pixels_under_the_same_labels(
    shapes: Path, tmp_path: Path, store: Store, split: str
) -> None:
    copy = shutil.copytree(shapes, tmp_path / "copy")
    before = planned(shapes, tmp_path / "run")
    begin_and_score(before, store)
    moved = planned(copy, tmp_path / "run")
    assert known(moved) == known(before)
    check_name(moved, store, "a", resume=True)
    for file in (copy / "images").glob(f"{split}_*.png"):
        cv2.imwrite(str(file), cv2.imread(str(file)) // 8)
    dark = planned(copy, tmp_path / "run")
    assert known(dark)[1] != known(before)[1]
    if split == "test":
        assert dark.trial_conditions == before.trial_conditions, "no trial sees a test image"
        return
    assert dark.proxy != before.proxy
    assert "data.train.annotations, data.train.images changed" in refusal(dark, store)


def test_other_pixels_in_the_same_folder(shapes: Path, tmp_path: Path, store: Store) -> None:
    copy = shutil.copytree(shapes, tmp_path / "copy")
    proxy = [f"proxy.{s}.images={copy}/images" for s in ("train", "val")]
    proxy += [f"proxy.{s}.annotations={copy}/{s}.json" for s in ("train", "val")]
    plan = planned(shapes, tmp_path / "run", *proxy)
    begin_and_score(plan, store)
    file = copy / "images" / "val_00000.png"
    cv2.imwrite(str(file), cv2.imread(str(file)) // 8)
    dark = planned(shapes, tmp_path / "run", *proxy)
    assert dark.trial_conditions != plan.trial_conditions
    says = "the content of the annotation file or of the images changed since it was started"
    assert says in refusal(dark, store)


def test_other_code_of_the_user(
    shapes: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "my_own_head.py"
    code.write_text(
        "from mmdet.models.dense_heads import RetinaHead\nclass MyHead(RetinaHead):\n    pass\n"
    )
    head = "student.cfg_options.model.bbox_head.type=my_own_head.MyHead"
    before = planned(shapes, tmp_path / "run", head)
    begin_and_score(before, store)
    code.write_text(code.read_text().replace("pass", "stacked = 1"))
    after = planned(shapes, tmp_path / "run", head)
    assert {*known(after)}.isdisjoint(known(before))
    says = "the content of the student's config or checkpoint, or its code changed"
    assert says in refusal(after, store)
    sys.modules.pop("my_own_head")


def test_a_search_without_the_filter_shares_no_outcomes_with_a_search_with_it(
    shapes: Path, tmp_path: Path, store: Store
) -> None:
    """It has scores of distillers that the filter rejects."""
    plan = planned(shapes, tmp_path / "run")
    begin_and_score(plan, store)
    unfiltered = planned(shapes, tmp_path / "run", "search.filter=False")
    assert unfiltered.trial_conditions != plan.trial_conditions
    assert "'a' would not compare: search.filter changed" in refusal(unfiltered, store)
    assert known(unfiltered)[1] == known(plan)[1], "full trainings know nothing of it"
    assert "filter" not in plan.record["conditions"], "searches of before the setting resume"


@pytest.mark.parametrize("module", ["torch", "mmdet"])
def test_another_version_is_named(
    shapes: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    plan = planned(shapes, tmp_path / "run")
    begin_and_score(plan, store)
    before, version = known(plan), getattr(keys, module).__version__
    patch = version.split("+")[0].rpartition(".")[0] + ".99"
    monkeypatch.setattr(getattr(keys, module), "__version__", patch)
    assert known(plan) == before, "of a minor version, all patches count as the same"
    monkeypatch.setattr(getattr(keys, module), "__version__", "9.8.7+cu999")
    was = keys.minor(version)
    assert f"the version of {module} ({was}, now 9.8) changed since" in refusal(plan, store)


@pytest.mark.slow
def test_two_folders_that_share_a_store_share_no_scores_under_other_weights(
    tmp_path: Path, store: Store
) -> None:
    """A training on another machine leaves other last digits."""
    options = (*tiny.OPTIONS, "data.synthetic.train=24", "proxy.train_images=16")
    options = (*options, "proxy.val_images=8", "teacher.schedule.param_scheduler=[]")
    config = load_config("quickstart", options)
    one, other = (make_plan(config, tmp_path / name) for name in ("one", "other"))
    untrained = one.trial_conditions
    make_data(one)
    outcome = train(one.teacher)
    assert outcome.completed, outcome.error
    assert one.trial_conditions != untrained
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert one.trial_conditions == other.trial_conditions
    checkpoint = torch.load(other.teacher.checkpoint)
    weight = next(iter(checkpoint["state_dict"].values()))
    torch.nextafter(weight, weight + 1, out=weight)
    torch.save(checkpoint, other.teacher.checkpoint)
    assert one.conditions == other.conditions
    assert one.trial_conditions != other.trial_conditions
    search = begin(one, store)
    check_name(other, store, "a", resume=True)  # no trial yet: nothing is mixed
    candidate = Candidate(0, "global", FOUND)
    trial = store.add_trial(search, candidate, 0, one.trial_conditions, one.seed)
    store.tell_trial(trial, Outcome(Status.COMPLETED, score=0.5), 0)
    assert store.scored(one.trial_conditions, FOUND.key) is not None
    assert store.scored(other.trial_conditions, FOUND.key) is None
    check_name(one, store, "a", resume=True)
    says = refusal(other, store)
    assert f"other weights than {other.teacher.checkpoint}" in says
    assert "resume in the work folder that the search was started in" in says
    one.teacher.checkpoint.unlink()
    assert "other weights" in refusal(one, store), "a retrained teacher would be another"
