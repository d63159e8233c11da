"""What Tune is told of candidates that are tried again; neither Tune nor Ray runs."""

from __future__ import annotations

import pytest
from detkds.space import Candidate, Distiller, Outcome
from detkds.workers import retries
from detkds.workers.asking import NODE, OUTCOME, PLACE, AskTell, Watch
from detkds.workers.retries import Deadline, Retries


class Endless:
    """Candidates without end; keeps what was told."""

    done = False

    def __init__(self) -> None:
        self.asked = 0
        self.told: dict[int, Outcome] = {}

    def ask(self) -> Candidate:
        self.asked += 1
        return Candidate(self.asked - 1, "global", Distiller.parse("global: identity, l1 × 1"))

    def started(self, candidate: Candidate, host: str, device: str) -> None:
        """Not kept."""

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self.told[candidate.number] = outcome


@pytest.fixture
def nodes() -> dict[str, str]:
    return {"a": "host-a", "b": "host-b"}


@pytest.fixture
def searcher(nodes: dict[str, str]) -> AskTell:
    return AskTell(Endless(), lambda: 3, Retries(lambda: nodes), Deadline(None))


def start(searcher: AskTell, trial: str, node: str) -> None:
    searcher.taken(trial, worker=None)
    report = {"host": node, "device": "cpu", NODE: node, "blind": False}
    searcher.on_trial_result(trial, report)


def fail(searcher: AskTell, trial: str, node: str) -> None:
    start(searcher, trial, node)
    searcher.on_trial_result(trial, {OUTCOME: Outcome.failed("OSError: no space").to_json()})
    searcher.ended(trial, "the worker has ended")


def test_a_candidate_that_is_tried_again_is_served_before_new_ones(searcher: AskTell) -> None:
    searcher.suggest("0")
    fail(searcher, "0", "a")
    again = searcher.suggest("1")
    assert again["candidate"][0] == 0
    assert again[PLACE] == (["a"], None, True)
    assert searcher.suggest("2") is None, "a free worker would go to the new one"
    start(searcher, "1", "b")
    assert searcher.suggest("3")["candidate"][0] == 1
    assert searcher.source.told == {}


def test_one_that_waits_for_nodes_that_have_left_takes_what_is_left(
    searcher: AskTell, nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher.suggest("0")
    fail(searcher, "0", "a")
    searcher.suggest("1")
    del nodes["b"]
    assert not Watch(searcher).stop_all(), "another node may come"
    monkeypatch.setattr(retries, "PATIENCE_SECONDS", 0)
    assert Watch(searcher).stop_all()
    assert searcher.begins_again()
    assert not Watch(searcher).stop_all()
    assert searcher.suggest("2")[PLACE] == ([], None, True)
    nodes.clear()
    assert not Watch(searcher).stop_all(), "without any node, one is waited for"


def test_an_error_of_the_source_ends_the_run(searcher: AskTell) -> None:
    searcher.suggest("0")
    searcher.error = OSError()
    assert Watch(searcher).stop_all()
    assert not searcher.begins_again()


def test_the_share_of_time_in_use_counts_workers_without_a_trial(
    searcher: AskTell, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("detkds.workers.asking.time.monotonic", lambda: now)
    searcher.suggest("0")
    searcher.look()
    now = 110.0
    searcher.look()
    assert searcher.in_use == 0, "no worker has taken it yet"
    start(searcher, "0", "a")
    now = 120.0
    searcher.look()
    assert searcher.in_use == pytest.approx(10 / 60), "one of three workers, half of the time"
