"""Who contends, who stays, and how sure the winner is: the confirmation's decisions, by numbers."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import tiny
from detkds.db import TrialRow
from detkds.search.confirmation import (
    Confirmation,
    Contender,
    better_half,
    contenders,
)
from detkds.search.exported import started_from
from detkds.settings import Confirm
from detkds.space import Distiller, Status
from scipy import stats

ALONE, PKD = Distiller(()), Distiller.parse("global: identity, pearson × 5")
START = {ALONE.key: "none", PKD.key: "pkd"}


def trial(number: int, distiller: Distiller, score: float | None) -> TrialRow:
    return TrialRow(
        id=number,
        status=Status.STOPPED if score is None else Status.COMPLETED,
        score=score,
        metrics={},
        reason=None,
        error=None,
        seed=0,
        host=None,
        device=None,
        started=None,
        finished=None,
        seconds=1.0,
        conditions="",
        search_id=1,
        number=number,
        asked_after=0,
        tell_order=number,
        stage="whole",
        distiller=distiller,
        notation=str(distiller),
        key=distiller.key,
        queued=datetime.now(timezone.utc),
        early_score=None,
        reused_from=None,
        holder=None,
    )


def found(weight: float) -> Distiller:
    return Distiller.parse(f"logits: identity, l1 × {weight}")


def test_the_best_trials_contend_with_the_best_preset_and_the_student_alone() -> None:
    trials = [
        trial(0, ALONE, 0.10),
        trial(1, PKD, 0.12),
        trial(2, found(1), 0.30),
        trial(3, found(2), 0.20),
        trial(4, found(1), 0.30),  # answered from the store
        trial(5, found(5), None),  # stopped early
        trial(6, found(8), 0.15),
    ]
    field = contenders(trials, START, Confirm(candidates=2))
    assert [one.trial.number for one in field] == [2, 3, 1, 0]
    assert [one.title for one in field] == ["trial 2", "trial 3", "pkd", "none"]


def test_the_better_half_stays_and_the_best_preset() -> None:
    field = [
        Contender(trial(0, ALONE, 0.1), "none", (0.10, 0.11)),
        Contender(trial(1, PKD, 0.1), "pkd", (0.05, 0.06)),
        Contender(trial(2, found(1), 0.3), None, (0.30, 0.20)),
        Contender(trial(3, found(2), 0.2), None, (0.10, 0.02)),
        Contender(trial(4, found(5), 0.2), None, (0.20, 0.22)),
    ]
    assert [one.trial.number for one in better_half(field)] == [2, 4, 0, 1]


def test_the_student_alone_is_no_preset() -> None:
    field = [Contender(trial(0, ALONE, 0.1), "none", (0.1,)), Contender(trial(1, PKD, 0.1), "pkd")]
    assert Confirmation(tuple(field)).preset is field[1]
    assert better_half(field) == field


def test_leads_and_probability_are_paired_over_the_seeds_in_common() -> None:
    winner = Contender(trial(2, found(1), 0.40), None, (0.20, 0.24, 0.22, 0.25))
    preset = Contender(trial(1, PKD, 0.30), "pkd", (0.18, 0.23, 0.21))
    confirmation = Confirmation((winner, preset))
    assert confirmation.rival is preset
    assert confirmation.leads == pytest.approx((0.10, (0.02 + 0.01 + 0.01) / 3))
    independent = stats.ttest_rel(winner.scores[:3], preset.scores, alternative="greater")
    assert confirmation.probability == pytest.approx(1 - independent.pvalue)


def test_the_probability_is_as_often_right_as_it_says() -> None:
    """Where both are equally good, it is uniform; where one leads by its spread, mostly high."""
    draw = random.Random(0)

    def probabilities(lead: float) -> list[float]:
        values = []
        for _ in range(400):
            a, b = ([draw.gauss(m, 0.01) for _ in range(4)] for m in (0.2 + lead, 0.2))
            pair = (
                Contender(trial(2, found(1), 0.2), None, tuple(a)),
                Contender(trial(1, PKD, 0.2), "pkd", tuple(b)),
            )
            values.append(Confirmation(pair).probability or 0.0)
        return sorted(values)

    assert stats.kstest(probabilities(0.0), "uniform").pvalue > 0.01
    assert probabilities(0.02)[100] > 0.85


def test_a_preset_that_wins_has_the_best_found_distiller_as_its_rival() -> None:
    preset = Contender(trial(1, PKD, 0.3), "pkd", (0.3, 0.3))
    own = Contender(trial(2, found(1), 0.4), None, (0.2, 0.2))
    confirmation = Confirmation((preset, Contender(trial(0, ALONE, 0.1), "none", (0.25,)), own))
    assert confirmation.rival is own
    assert confirmation.leads == pytest.approx((-0.1, 0.1))
    assert confirmation.probability == 1.0
    assert confirmation.record()["trial"] == 1


def test_one_seed_gives_no_probability_and_no_preset_no_rival() -> None:
    own = Contender(trial(2, found(1), 0.4), None, (0.2,))
    preset = Contender(trial(1, PKD, 0.3), "pkd", (0.1,))
    assert Confirmation((own, preset)).probability is None
    lonely = Confirmation((own,))
    assert (lonely.rival, lonely.leads, lonely.probability) == (None, None, None)


def test_names_of_start_distillers_are_fit_for_folders() -> None:
    long = Distiller.parse("; ".join(f"{kind}: identity, l2 × 1" for kind in ("global", "mgd")))
    start = [
        replace(PKD, name="pkd"),
        long,
        replace(found(1), name="../my cells/" + 300 * "x"),
        replace(found(2), name="pkd"),
    ]
    names = list(started_from(start).values())
    assert names[:2] == ["pkd", "start_1"]
    assert names[3] == "pkd_3"
    assert all(len(name) < 70 and "/" not in name and " " not in name for name in names)


@pytest.mark.parametrize("option", ["confirm.seeds=0", "confirm.candidates=0", "confirm.rounds=0"])
def test_a_confirmation_without_seeds_is_refused(tmp_path: Path, option: str) -> None:
    folder = tmp_path / "run"
    refused = tiny.run_here(
        tiny.command("search", "quickstart", "--work-dir", folder, "--cfg-options", option)
    )
    assert refused.returncode == 2
    assert option.partition("=")[0] in refused.stderr
    assert not folder.exists()
