"""Drivers that are struck until their search is done: the short form of ``benchmarks/chaos.py``."""

from __future__ import annotations

import os
from pathlib import Path

import chaos_driver
import pytest
from chaos_driver import ALGORITHMS, Search
from chaos_faults import BY_NAME, KILLED, SQLITE, Fault, plan
from chaos_life import METHODS, Job
from chaos_world import Broken, Tally, World
from detkds.search.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> World:
    # A driver that may not write the store is another user, where root runs the tests.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(folder, 0o755)
    return World(f"sqlite:///{tmp_path}/detkds.db")


def test_no_fault_loses_an_outcome(world: World) -> None:
    """Every kind of fault that can strike SQLite, at all steps, until three searches are done."""
    tally = Tally()
    chaos_driver.run(20, 40, world, 0, tally, length=20)
    expected = [kind for kind in BY_NAME.values() if SQLITE in kind.stores]
    assert set(tally.rows) == {kind.name for kind in expected}
    assert all(row.survived == row.faults and not row.lost for row in tally.rows.values())
    assert all(row.by_itself == 0 for name, row in tally.rows.items() if BY_NAME[name].ends)
    assert sum(row.faults for row in tally.rows.values()) == len(plan(20, 40, SQLITE, 0))


def test_a_search_that_forgets_is_found_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telling the search before the store loses the outcome of a driver that is killed between."""

    def controller_first(
        self: Session, candidate: object, outcome: object, reused_from: object
    ) -> None:
        self.controller.tell(candidate, outcome)  # type: ignore[arg-type]
        trial_id = self.trial_ids.pop(candidate.number)  # type: ignore[attr-defined]
        self.store.tell_trial(trial_id, outcome, self.outcomes, reused_from)  # type: ignore[arg-type]
        self.outcomes += 1

    monkeypatch.setattr(Session, "_tell", controller_first)
    job = Job("a", *ALGORITHMS[1], 8, 2, world.url, 0)
    with pytest.raises(Broken, match=r"trial \d+ was told .*\n.*\n  struck: killed, after tell 3"):
        Search(job, world, Tally()).run([Fault(KILLED, "tell", True, 3)])


def test_a_search_that_repeats_is_found_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume that takes a told outcome back changes what the search has heard."""
    resume = Session.resume

    def forgetful(self: Session) -> None:
        with self.store._engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE trials SET tell_order = NULL, status = 'running' WHERE tell_order = "
                "(SELECT max(tell_order) FROM trials)"
            )
        resume(self)

    monkeypatch.setattr(Session, "resume", forgetful)
    job = Job("a", *ALGORITHMS[1], 8, 1, world.url, 0)
    with pytest.raises(Broken, match=r"evaluations repeated|trial .* was .* and is"):
        Search(job, world, Tally()).run([Fault(KILLED, "ask", False, call) for call in (4, 1)])


def test_every_step_is_struck() -> None:
    struck = {(fault.step, fault.after) for fault in plan(250, 1000, SQLITE, 0)}
    assert {(step, after) for step in METHODS for after in (False, True)} <= struck
