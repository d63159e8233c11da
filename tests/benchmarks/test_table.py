"""What the tabular benchmark measures, in which order, and how a collection goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import detkds
import pytest
from detkds.detectors import register
from detkds.search.plans.full import student_training
from detkds.search.plans.plan import Plan, make_data
from detkds.space import Distiller, Status, WrongUse
from detkds.workers.filter import measure
from detkds.workers.training import train
from detkds.workers.trial import evaluate
from measuring import detection_loss, gradient_sizes
from problems import VARIANTS, plan_of, space_of
from sampled import SINGLES, interleaved, sampled
from table import ROUNDS, SEEDS, STUDY, Bench, main, runs_of
from table_log import Log
from table_rows import FILTER, FINAL, Job, Run, Scores, form_of, key_of, read_table

ONE = Distiller.parse("global: identity, pearson × 5")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_of("quick", "scratch", tmp_path_factory.mktemp("quick"), None)


# The distillers


def test_every_beginning_has_the_strata_in_proportion() -> None:
    strata = [[f"{name}{i}" for i in range(size)] for name, size in (("a", 60), ("b", 20))]
    found = interleaved(strata, Random(0))
    assert sorted(found) == sorted(strata[0] + strata[1])
    for end in range(8, 81, 8):
        counts = Counter(one[0] for one in found[:end])
        assert abs(counts["a"] - 3 * counts["b"]) <= 6


def test_list_of_distillers(plan: Plan) -> None:
    found = sampled(plan)
    keys = [key_of(one) for one in found]
    assert keys == [key_of(one) for one in sampled(plan)]
    assert len(set(keys)) == len(keys) >= 400
    assert found[0] == Distiller(())
    crosskd = next(one for one in found if one.name == "crosskd")
    assert found.index(crosskd) < 25, "presets come first"
    for factor in (0.25, 4.0):
        weights = {term.knowledge: term.weight * factor for term in crosskd.terms}
        assert crosskd.with_weights(weights).key in keys
    best_by_hand = "logits: softmax_c, correlation × 2"
    assert Distiller((*Distiller.parse(best_by_hand).terms, *crosskd.terms)).key in keys
    assert not any(one.stepwise for one in found), "a cosine has no milestones"


def test_single_terms_are_stratified(plan: Plan) -> None:
    """Every choice of every slot comes about equally often."""
    space = space_of(plan)
    assert "fgbg_area" in space.knowledge
    singles = [one.terms[0] for one in sampled(plan) if len(one.terms) == 1]
    for knowledge in space.knowledge:
        own = [space.encode(term) for term in singles if term.knowledge == knowledge]
        assert len(own) > SINGLES / 2
        for slot, choices in enumerate(space.slots(knowledge)):
            assert {*choices} <= {values[slot] for values in own}, (knowledge, slot)


def test_the_study_has_all_kinds_and_combinations(plan: Plan) -> None:
    beginning = sampled(plan)[: STUDY + 10]
    singles = {one.terms[0].knowledge for one in beginning if len(one.terms) == 1}
    assert singles == {*space_of(plan).knowledge}
    assert {len(one.terms) for one in beginning} >= {1, 2, 3, 4}


# The problems


def test_proxies_share_teacher_and_images(plan: Plan, tmp_path: Path) -> None:
    plans = {name: plan_of("quick", name, plan.folder, None) for name in VARIANTS}
    assert len({one.teacher.folder for one in plans.values() if one.teacher}) == 1
    assert {name: one.config.trial.epochs for name, one in plans.items()} == {
        "scratch": 6,
        "short": 2,
        "few": 6,
        "warm": 3,
        "warm_short": 1,
    }
    warmups = [one.warmup for one in plans.values() if one.warmup is not None]
    assert [one.folder for one in warmups] == [warmups[0].folder] * 2
    constant = warmups[0].schedule
    assert [one["type"] for one in constant.param_scheduler] == ["LinearLR"]
    assert constant.epochs == 4
    assert plans["warm"].config.trial.param_scheduler[-1]["type"] == "CosineAnnealingLR"
    assert plans["few"].config.proxy.train_images == round(80 / 3)
    assert plans["few"].config.proxy.val_images == plan.config.proxy.val_images


def coco_file(path: Path, images: range, classes: dict[int, str]) -> None:
    names = list(classes)
    document = {
        "images": [
            {"id": i, "file_name": f"{path.stem}{i}.png", "width": 64, "height": 64} for i in images
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": names[i % len(names)],
                "bbox": [4, 4, 20, 20],
                "area": 400,
                "iscrowd": 0,
            }
            for i in images
        ],
        "categories": [{"id": number, "name": name} for number, name in classes.items()],
    }
    path.write_text(json.dumps(document))


def test_trials_of_own_data_are_scored_on_both_splits(tmp_path: Path) -> None:
    from problems import _own_proxy

    coco_file(tmp_path / "train.json", range(20), {1: "cell", 2: "dot"})
    coco_file(tmp_path / "val.json", range(7), {5: "cell", 9: "dot"})
    train, val = _own_proxy(tmp_path, tmp_path / "proxy", 12, 5)
    trained, scored = (json.loads(Path(one.annotations).read_text()) for one in (train, val))
    assert len(trained["images"]) == 12
    names = [image["file_name"] for image in scored["images"]]
    assert len(names) == len({*names}) == 5 + 7
    assert not {*names} & {image["file_name"] for image in trained["images"]}
    ids = [box["id"] for box in scored["annotations"]]
    assert len({*ids}) == len(ids) == 12
    files = {image["id"]: image["file_name"] for image in scored["images"]}
    for box in scored["annotations"]:
        file = files[box["image_id"]]
        number = int(file.removeprefix("train").removeprefix("val").removesuffix(".png"))
        assert box["category_id"] == 1 + number % 2, "the class keeps its name"


def test_own_data_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="--data: the problem 'bccd' has COCO files; give their"):
        plan_of("bccd", "scratch", tmp_path, None)


# The order and the log


class _Listed(Bench):
    """A bench that knows what the filter finds without a teacher."""

    distillers = (Distiller(()), ONE, Distiller.parse("logits: identity, l1"))

    def measure(self, job: Job) -> Run:
        assert job.kind == FILTER
        if job.distiller == self.distillers[-1]:
            return Run(Status.REJECTED, reason="zero")
        return Run(Status.COMPLETED, metrics={"filter/share": 0.5})


def test_order_of_the_runs(tmp_path: Path) -> None:
    bench, log = _Listed("quick", tmp_path, None), Log(tmp_path)
    study = [(job.kind, job.seed, job.text) for job in runs_of(bench, log, "study", "scratch")]
    texts = ["none", "global: identity, pearson × 5"]
    first = [(*run, text) for text in texts for run in ROUNDS[0]]
    assert study[: len(first)] == first
    assert len({*study}) == len(study) == 2 * sum(map(len, ROUNDS))
    assert Counter(kind for kind, _, _ in study)[FINAL] == 2 * 3
    trials = [(job.kind, job.seed, job.text) for job in runs_of(bench, log, "trials", "warm")]
    assert trials == [("warm", seed, text) for seed in SEEDS for text in texts]
    found = {job.text: run for job, run in log.runs()}
    assert found["logits: identity, l1 × 1"].reason == "zero"
    assert found[texts[1]].metrics == {"filter/share": 0.5}


def test_a_run_is_for_one_process(tmp_path: Path) -> None:
    ours, theirs = Log(tmp_path), Log(tmp_path)
    job, run = Job("quick", ONE, "scratch", 0), Run(Status.COMPLETED, [Scores(*[0.5] * 7)], cpu=2.0)
    with ours.claimed(job) as first:
        assert first
        with theirs.claimed(job) as second:
            assert not second
        with theirs.claimed(Job("quick", ONE, "scratch", 1)) as other:
            assert other
        ours.add(job, run)
    with theirs.claimed(job) as again:
        assert not again, "it is done"
    assert list(theirs.runs()) == [(job, run)]


def test_runs_under_other_conditions_do_not_mix(tmp_path: Path) -> None:
    Log(tmp_path).check("quick", "warm", "key")
    Log(tmp_path).check("quick", "warm", "key")
    Log(tmp_path).check("quick", "few", "other")
    with pytest.raises(
        WrongUse, match=r"--work-dir: the runs 'warm' of 'quick' in .* give another"
    ):
        Log(tmp_path).check("quick", "warm", "other")


def test_a_failed_run_is_tried_again(tmp_path: Path) -> None:
    log, job = Log(tmp_path), Job("quick", Distiller(()), FINAL, 2)
    log.add(job, Run(Status.FAILED, reason="no space left"))
    assert not log.has(job)
    log.add(job, Run(Status.REJECTED, reason="loss is NaN"))
    assert log.has(job)
    assert [(one.key, run.status) for one, run in log.runs()] == [("none", Status.REJECTED)]


# For real


def collect(folder: Path, *more: str) -> list[str]:
    script = Path(detkds.__file__).parent / "benchmarks" / "table.py"
    return [sys.executable, str(script), *more, "--work-dir", str(folder), "--problems", "quick"]


@pytest.mark.slow
def test_scores_are_those_of_searches_and_full_trainings(tmp_path: Path) -> None:
    bench = Bench("quick", tmp_path, None)
    context = bench.context("warm")
    found = bench.measure(Job("quick", ONE, "warm", context.seed))
    outcome = evaluate(context, ONE)
    last = found.epochs[-1]
    assert len(found.epochs) == 3
    assert (last.ap, last.ap50, last.ap75) == tuple(
        outcome.metrics[f"bbox_mAP{end}"] for end in ("", "_50", "_75")
    )
    assert last.loss > 0
    assert 0 < found.epochs[0].training < last.training < found.cpu
    plan = bench.plan("scratch")
    whole = bench.measure(Job("quick", ONE, FINAL, 1))
    assert len(whole.epochs) == 1
    full = train(student_training(plan, "pkd", ONE, 1))
    assert whole.epochs[0].ap == full.score


@pytest.mark.slow
def test_sizes_are_those_of_the_filter(tmp_path: Path) -> None:
    bench = Bench("quick", tmp_path, None)
    space = space_of(bench.plan("scratch")).only(["localization", "mgd"])
    context = bench.context("scratch")
    sizes = gradient_sizes(context, space)
    assert len(sizes) == len(space) / 7, "one for each form of a term"
    for text in ("mgd: hide_45, l2 × 5", "localization: sigmoid, eiou × 0.5"):
        (term,) = Distiller.parse(text).terms
        share = measure(context.batch, Distiller((term,))).metrics["filter/share"]
        assert term.weight * sizes[form_of(term)] == pytest.approx(share, rel=0.01)


@pytest.mark.slow
def test_losses_leave_the_student_as_it_is(tmp_path: Path) -> None:
    from detkds.workers.student import build_student

    plan = plan_of("quick", "scratch", tmp_path, None)
    make_data(plan)
    register()
    context = Bench("quick", tmp_path, None).context("scratch")
    student = build_student(plan.task.student, 0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    losses = [detection_loss(student, context.val_set, 8, mode) for mode in (False, True, False)]
    assert losses[0] == losses[2] != losses[1]
    assert all(bool((before[name] == value).all()) for name, value in student.state_dict().items())


@pytest.mark.slow
@pytest.mark.benchmarks
def test_a_killed_collection_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share the runs; one is killed in the middle of a run."""
    first = subprocess.Popen(collect(tmp_path, "collect"), stdout=subprocess.PIPE)
    log = Log(tmp_path)
    while first.poll() is None and not any(run.epochs for _, run in log.runs()):
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = {job.name for job, _ in log.runs()}
    both = [
        subprocess.Popen(collect(tmp_path, "collect", "--limit", "3"), stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [one.wait(timeout=600) for one in both] == [0, 0]
    after = {job.name: run for job, run in log.runs()}
    assert len(after) == len(before) + 6
    assert all(run.status is not Status.FAILED for run in after.values())
    log.add_sizes("quick", {"mgd: hide_45, l2": 0.5})  # an export measures those that are missing
    out = tmp_path / "out.csv.gz"
    monkeypatch.setattr("sys.argv", collect(tmp_path, "export", "--sizes", "--out", str(out))[1:])
    main()
    shared, rows = read_table(out)
    assert shared["quick"].sizes == {"mgd: hide_45, l2": 0.5}
    assert {job.name for job, _ in rows} == {*after}
    known = ["--known", str(out), "--limit", "1"]
    subprocess.run(collect(tmp_path / "other", "collect", *known), check=True, timeout=600)
    names = [job.name for job, _ in Log(tmp_path / "other").runs()]
    assert {*after} < {*names}
    assert len(names) == len(after) + 1
