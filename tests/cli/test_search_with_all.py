"""A real search with all that searches may have: the extended space, shares, a confirmation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import tiny
from detkds.db import SearchRow, Store, TrainingRow, TrialRow
from detkds.db.rows import TEACHER_SCORED
from detkds.search.plans.plan import make_plan
from detkds.settings import load_config
from detkds.space import Distiller, Status
from detkds.workers.runner import score
from detkds.workers.trial import TrialContext, evaluate

pytestmark = pytest.mark.slow

STEPS = "[{'type':'MultiStepLR','milestones':[1],'by_epoch':True}]"
OPTIONS = (
    "search.space=extended",
    "search.knowledge=['global','cross_logits','label']",
    "search.weight_unit=share",
    "search.start=['none','pkd','label: identity, l2 × 0.1 share']",
    "search.population=1",
    "search.iterations=0",
    "search.weights=2",
    f"trial.param_scheduler={STEPS}",
    "trial.epochs=2",
    "confirm={'candidates':1,'rounds':2,'seeds':1,'epochs':2}",
    f"final.param_scheduler={STEPS}",
    "final.epochs=2",
    "final.compare=['found','best_preset','sssd_stepwise']",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("all")
    done = tiny.run_here(tiny.search_command(folder, options=OPTIONS))
    assert done.returncode == 0, done.stderr
    assert "confirmed: AP on the proxy under fresh seeds" in done.stdout
    (folder / "output.txt").write_text(done.stdout)
    return folder


def stored(folder: Path) -> tuple[SearchRow, list[TrialRow], list[TrainingRow]]:
    with Store(f"sqlite:///{folder / 'detkds.db'}") as store:
        search = store.search("quickstart")
        return search, store.trials(search.id), store.trainings(search.id)


def test_the_teacher_and_the_student_alone_are_scored_first(finished, command):
    _, (alone, *_), trainings = stored(finished)
    (teacher,) = (row for row in trainings if row.name == TEACHER_SCORED)
    plan = make_plan(load_config("quickstart", [*tiny.OPTIONS, *OPTIONS]), finished)
    context = TrialContext.build(plan.task, plan.config.trial, plan.proxy, seed=plan.seed)
    ap = score(*context.teachers, context.val_set, context.metric).get("bbox_mAP", 0.0)
    assert (teacher.score, teacher.checkpoint) == (ap, None)
    assert (alone.number, alone.notation) == (0, "none")
    said = (finished / "output.txt").read_text()
    assert said.count("on the images that score trials (it was trained on them)") == 1
    compared = (
        f"for comparison: student alone AP {100 * alone.score:.1f}, teacher AP {100 * ap:.1f}"
    )
    assert compared in said
    _, looked = command("watch", "quickstart", "--once", "--work-dir", str(finished))
    assert compared in looked


def test_trials_have_shares_and_the_plain_weights_that_they_became(finished):
    _, rows, _ = stored(finished)
    assert {"cross_logits", "label", "weights"} <= {row.stage for row in rows}
    assert {row.status for row in rows} <= {Status.COMPLETED, Status.REJECTED, Status.STOPPED}
    scored = [row for row in rows if row.status is Status.COMPLETED]
    for row in scored:
        shares = {term.knowledge for term in row.distiller.active if term.unit == "share"}
        assert (row.outcome.plain_weights or {}).keys() == shares
        assert not shares or {"filter/cosine", "filter/drop"} <= row.metrics.keys()
    assert rows[1].notation == "global: identity, pearson × 5", "a start term's weight is plain"
    assert any(row.distiller.in_shares for row in scored)
    file = finished / "trials.csv"
    done = tiny.run_here(
        tiny.command("trials", "quickstart", "--work-dir", finished, "--csv", file), finished
    )
    assert done.returncode == 0, done.stderr
    with open(file, newline="") as opened:
        written = list(csv.DictReader(opened))
    assert any(" share" in row["notation"] and row["metrics.weight/label"] for row in written)


def test_the_winner_of_the_confirmation_is_exported(finished):
    search, rows, trainings = stored(finished)
    trainings = [row for row in trainings if row.split == "proxy" and row.name != TEACHER_SCORED]
    assert {"none", "pkd"} <= {row.name for row in trainings}
    assert {row.seed for row in trainings} == {1, 2}
    assert search.confirmation is not None
    shown = search.confirmation["contenders"]
    scores = {(row.name, row.seed): row.score for row in trainings}
    for one in shown:
        seeds = range(1, 1 + len(one["aps"]))
        assert one["aps"] == [scores[one["title"], seed] for seed in seeds]
    means = [sum(one["aps"]) / len(one["aps"]) for one in shown if len(one["aps"]) == 2]
    assert means == sorted(means, reverse=True)
    winner = rows[search.confirmation["trial"]]
    out = finished / "out.json"
    exported = tiny.run_here(
        tiny.command("export", "quickstart", "--work-dir", finished, "--out", out)
    )
    assert exported.returncode == 0, exported.stderr
    distiller = Distiller.from_json(out)
    assert not distiller.in_shares
    plain = winner.distiller.with_plain_weights(winner.outcome.plain_weights or {})
    assert distiller.terms == plain.active
    assert distiller.provenance["confirmation"] == search.confirmation


def test_plain_weights_have_the_score_of_the_shares(finished):
    plan = make_plan(load_config("quickstart", [*tiny.OPTIONS, *OPTIONS]), finished)
    context = TrialContext.build(plan.task, plan.config.trial, plan.proxy, seed=plan.seed)
    in_shares = next(
        row
        for row in stored(finished)[1]
        if row.distiller.in_shares and row.status is Status.COMPLETED
    )
    plain = in_shares.distiller.with_plain_weights(in_shares.outcome.plain_weights)
    again = evaluate(context, plain)
    assert (again.score, not plain.in_shares) == (in_shares.score, True)


def test_full_trainings_have_plain_and_stepwise_weights(finished):
    trainings = [row for row in stored(finished)[2] if row.split == "test"]
    assert {row.status for row in trainings} == {Status.COMPLETED}
    assert not any(row.distiller.in_shares for row in trainings)
    (found,) = [row for row in trainings if row.name == "found"]
    assert found.distiller == Distiller.from_json(finished / "quickstart.json")
    (log,) = finished.glob("trained/sssd_stepwise-seed0-*/*/*.log")
    weights = [
        float(line.split("weight_label: ")[1].split()[0])
        for line in log.read_text().splitlines()
        if "weight_label: " in line
    ]
    assert (weights[0], weights[-1]) == (15, 30)


def test_such_a_search_resumes_and_trains_none_again(finished):
    _, rows, trainings = stored(finished)
    done = tiny.run_here(tiny.search_command(finished, "--resume", options=OPTIONS))
    assert done.returncode == 0, done.stderr
    _, again, trained = stored(finished)
    assert [(row.number, row.notation, row.score) for row in again] == [
        (row.number, row.notation, row.score) for row in rows
    ]
    assert len(trained) == len(trainings)
