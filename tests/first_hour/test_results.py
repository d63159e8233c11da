"""A search that has learned nothing, or has found nothing better, says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from detkds.cli.results import final_table, losses_of
from detkds.db import Store
from detkds.space import Candidate, Distiller, Outcome, Status

PKD = Distiller.parse("global: identity, pearson × 5; logits: norm_n, l2 × 0")


def trainings(**scores: list[float]) -> list[Any]:
    return [
        (
            SimpleNamespace(name=name, test="test", checkpoint=f"{name}.pth", folder=f"no/{name}"),
            Outcome(Status.COMPLETED, score=score, metrics={"bbox_mAP": score}),
        )
        for name, values in scores.items()
        for score in values
    ]


def result(tmp_path: Path, score: float, **finals: list[float]) -> Any:
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("cells", {}, "conditions", 0)
        trial = store.add_trial(search.id, Candidate(0, "start", PKD), 0, "conditions", 0)
        store.tell_trial(trial, Outcome(Status.COMPLETED, score=score), 0)
        best = store.best(search.id)
    found = trainings(**finals)
    return SimpleNamespace(
        confirmation=None, best=best, trainings=found, distiller_file=tmp_path / "cells.json"
    )


def test_nothing_learned_is_no_best_distiller(tmp_path, capsys):
    final_table(result(tmp_path, 0.0))
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("nothing was learned: no trial has an AP above 0")
    assert "trial.epochs" in said
    assert "best distiller" not in said


def test_a_found_distiller_that_loses_is_called_that(tmp_path, capsys):
    finals = {"none": [0.15, 0.17], "pkd": [0.14, 0.14], "found": [0.15, 0.15]}
    final_table(result(tmp_path, 0.2, **finals))
    said = capsys.readouterr().out
    assert "best distiller, proxy AP 20.0:\nglobal: identity, pearson × 5\n\n" in said
    line = "the found distiller loses to the student alone: 15.0 against 16.0 AP on the test split"
    assert line in said
    assert said.count("loses to") == 1


@pytest.mark.parametrize(
    ("scores", "losses"),
    [
        ({"none": [0.1], "found": [0.2]}, 0),
        ({"none": [0.2], "pkd": [0.3], "found": [0.2]}, 2),
        ({"none": [0.2], "pkd": [0.3]}, 0),
    ],
)
def test_ties_are_losses_and_a_table_without_the_found_one_has_none(scores, losses):
    assert len(losses_of("found", cast(Any, trainings(**scores)))) == losses
