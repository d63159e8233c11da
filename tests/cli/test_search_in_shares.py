"""A real search whose weights are shares: what it stores, shows, exports and trains."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import tiny
from detkds.db import Store
from detkds.search.plans.plan import make_plan
from detkds.settings import load_config
from detkds.space import Distiller, Status
from detkds.workers.trial import TrialContext, evaluate

pytestmark = pytest.mark.slow

OPTIONS = (
    "search.weight_unit=share",
    "search.start=['pkd', 'logits: norm_n, l2 × 0.1 share']",
    "trial.epochs=2",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shares")
    done = tiny.run_here(tiny.search_command(folder, options=OPTIONS))
    assert done.returncode == 0, done.stderr
    return folder


def trials(folder: Path) -> list:
    with Store(f"sqlite:///{folder / 'detkds.db'}") as store:
        return store.trials(store.search("quickstart").id)


def test_trials_have_shares_and_the_plain_weights_that_they_became(finished):
    rows = trials(finished)
    assert {row.status for row in rows} <= {Status.COMPLETED, Status.REJECTED, Status.STOPPED}
    scored = [row for row in rows if row.status is Status.COMPLETED]
    for row in scored:
        shares = {term.knowledge for term in row.distiller.active if term.unit == "share"}
        assert row.outcome.plain_weights.keys() == shares
        assert {"filter/cosine", "filter/drop"} <= row.metrics.keys()
    assert rows[0].notation == "global: identity, pearson × 5", "a start term's weight is plain"
    assert any(row.distiller.in_shares for row in scored)
    file = finished / "trials.csv"
    done = tiny.run_here(
        tiny.command("trials", "quickstart", "--work-dir", finished, "--csv", file), finished
    )
    assert done.returncode == 0, done.stderr
    with open(file, newline="") as opened:
        written = list(csv.DictReader(opened))
    assert any(" share" in row["notation"] and row["metrics.weight/logits"] for row in written)


def test_what_is_exported_has_plain_weights_and_the_trials_score(finished):
    plan = make_plan(load_config("quickstart", [*tiny.OPTIONS, *OPTIONS]), finished)
    context = TrialContext.build(plan.task, plan.config.trial, plan.proxy, seed=plan.seed)
    exported = Distiller.from_json(finished / "quickstart.json")
    assert not exported.in_shares
    with Store(f"sqlite:///{finished / 'detkds.db'}") as store:
        best = store.best(store.search("quickstart").id)
    again = evaluate(context, exported)
    assert again.score == best.score
    assert again.metrics.items() <= best.metrics.items()
    in_shares = next(
        row
        for row in trials(finished)
        if row.distiller.in_shares and row.status.value == "completed"
    )
    plain = in_shares.distiller.with_plain_weights(in_shares.outcome.plain_weights)
    again = evaluate(context, plain)
    assert (again.score, not plain.in_shares) == (in_shares.score, True)


def test_full_trainings_have_plain_weights(finished):
    with Store(f"sqlite:///{finished / 'detkds.db'}") as store:
        found = [row for row in store.trainings() if row.name == "found"]
    assert [row.status for row in found] == [Status.COMPLETED]
    assert not found[0].distiller.in_shares
    assert found[0].distiller == Distiller.from_json(finished / "quickstart.json")


def test_such_a_search_resumes(finished):
    before = [(row.number, row.notation, row.score) for row in trials(finished)]
    done = tiny.run_here(tiny.search_command(finished, "--resume", options=OPTIONS))
    assert done.returncode == 0, done.stderr
    assert [(row.number, row.notation, row.score) for row in trials(finished)] == before
