"""The controller and the session over a real store: stages, reuse, replay."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from detkds.db import Store
from detkds.search.algorithms.early_stop import LEAST
from detkds.search.controller import Controller, Event, replay
from detkds.search.session import MAX_FAILURES, Session
from detkds.settings import Search
from detkds.space import WEIGHTS_STAGE, Candidate, Distiller, Outcome, SearchSpace, Status, WrongUse

SETTINGS = Search(population=3, iterations=2, weights=6, top_k=2)


def new_controller(seed: int = 0, settings: Search = SETTINGS) -> Controller:
    return Controller(SearchSpace.preset(), settings, seed)


def score(candidate: Candidate) -> Outcome:
    """A simulated trial: a fixed landscape, one candidate in ten rejected in training.

    The filter rejects one candidate in seven. The second half of the training gains between 0 and
    0.2.
    """
    if filtered_out(candidate.distiller):
        return Outcome.rejected("shape error")
    rng = random.Random(candidate.distiller.key)
    if rng.random() < 0.1:
        return Outcome.rejected("loss is NaN at iteration 3")
    final = rng.random()
    if candidate.early_bar is None:
        return Outcome(Status.COMPLETED, score=final)
    early = max(0.0, final - 0.2 * rng.random())
    if early < candidate.early_bar:
        return Outcome(Status.STOPPED, early_score=early, reason="stopped halfway")
    return Outcome(Status.COMPLETED, score=final, early_score=early)


def filtered_out(distiller: Distiller) -> bool:
    return int(distiller.key, 16) % 7 == 0


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as opened:
        yield opened


def new_session(store: Store, name: str, seed: int = 0, conditions: str = "same") -> Session:
    known = store.find_search(name)
    search = known or store.create_search(name, {}, conditions, seed)
    session = Session(new_controller(seed), store, search.id, conditions, seed)
    session.resume()
    return session


def work(
    session: Session, workers: int = 1, stop_after: int | None = None, scored=score
) -> list[Candidate]:
    """A small engine; returns the candidates in the order they reached a worker."""
    seen: list[Candidate] = []
    live: list[Candidate] = []
    rng = random.Random(5)
    while not session.done:
        while len(live) < workers and (candidate := session.ask()) is not None:
            session.started(candidate, "host", "cpu")
            live.append(candidate)
            seen.append(candidate)
        if stop_after is not None and len(seen) > stop_after:
            return seen  # like a kill: live candidates are never told
        if live:  # without a live candidate, the store has answered every ask
            candidate = live.pop(rng.randrange(len(live)))
            session.tell(candidate, scored(candidate))
    return seen


def table(store: Store, name: str) -> list[tuple]:
    rows = store.trials(store.search(name).id)
    return [(r.number, r.stage, r.key, r.status, r.score, r.reason) for r in rows]


def test_stages_take_turns_and_weights_come_last(store):
    session = new_session(store, "a")
    work(session)
    rows = table(store, "a")
    stages = [row[1] for row in rows]
    assert stages[:5] == ["global", "fgbg", "instance", "logits", "localization"]
    first_weight = stages.index(WEIGHTS_STAGE)
    assert set(stages[first_weight:]) == {WEIGHTS_STAGE}
    assert stages.count(WEIGHTS_STAGE) >= SETTINGS.weights
    best = store.best(store.search("a").id)
    assert best.score == max(row[4] for row in rows if row[4] is not None)
    assert session.controller.best[1].score == best.score


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 17, 23, 30])
def test_a_killed_search_goes_on_as_if_it_had_not_been(store, stop):
    work(new_session(store, "whole", conditions="one"))
    first = work(new_session(store, "killed", conditions="two"), stop_after=stop)
    second = work(new_session(store, "killed", conditions="two"))
    assert table(store, "whole") == table(store, "killed")
    told_before = {c.number for c in first[:-1]}
    assert not told_before & {c.number for c in second}, "no finished trial runs twice"


@pytest.mark.parametrize("stop", [3, 12, 25])
def test_with_more_workers_a_resume_still_loses_and_repeats_nothing(store, stop):
    first = work(new_session(store, "a"), workers=4, stop_after=stop)
    finished = {row[0]: row for row in table(store, "a") if row[3] is Status.COMPLETED}
    second = work(new_session(store, "a"), workers=4)
    assert not finished.keys() & {c.number for c in second}
    after = {row[0]: row for row in table(store, "a")}
    assert all(after[number] == row for number, row in finished.items())
    assert len(first) + len(second) >= len(finished)


def test_a_candidate_scored_before_under_the_same_conditions_is_answered_from_the_store(store):
    work(new_session(store, "first"))
    again = work(new_session(store, "second"))
    reached = {c.distiller.key for c in again}
    completed = {row[2] for row in table(store, "first") if row[3] is Status.COMPLETED}
    assert not reached & completed
    assert [row[4] for row in table(store, "second")] == [row[4] for row in table(store, "first")]
    rejected = {row[2] for row in table(store, "first") if row[3] is Status.REJECTED}
    assert reached == rejected, "what is rejected is tried again"
    other = work(new_session(store, "third", conditions="other"))
    assert {c.distiller.key for c in other} & completed


def test_another_seed_or_space_is_no_resume(store):
    session = new_session(store, "a")
    work(session, stop_after=5)
    with pytest.raises(WrongUse, match=r"^resume: trial 0 of the stored search"):
        Session(new_controller(seed=1), store, session.search_id, "same", 1).resume()


def test_trials_that_all_fail_end_the_search(store):
    session = new_session(store, "a")
    for _ in range(MAX_FAILURES):
        session.tell(session.ask(), Outcome.failed("RuntimeError: no such image"))
    assert session.done
    assert session.ask() is None
    assert "no such image" in session.failure.error


@pytest.mark.parametrize("workers", [1, 3, 8, 16, 40])
def test_replay_rebuilds_the_state_at_every_point(workers):
    """More workers than first places (15) ask in vain; a replay knows nothing of such asks."""
    events: list[list] = []
    controller, live, told, rng = new_controller(), [], 0, random.Random(2)
    while not controller.done:
        while len(live) < workers and (candidate := controller.ask()) is not None:
            events.append([candidate, told, None, None])
            live.append(events[-1])
        event = live.pop(rng.randrange(len(live)))
        event[2:] = told, score(event[0])
        controller.tell(event[0], event[3])
        told += 1
        rebuilt = new_controller()
        snapshot = [Event(*e) if e[2] is not None else Event(*e[:2], None, None) for e in events]
        still_open = replay(rebuilt, snapshot)
        assert still_open == sorted((e[0] for e in live), key=lambda c: c.number)
        assert rebuilt.best == controller.best
    assert rebuilt.done


def test_planned_counts_a_search_without_rejections():
    controller = new_controller()
    asked = 0
    while not controller.done:
        candidate = controller.ask()
        controller.tell(candidate, Outcome(Status.COMPLETED, score=0.5))
        asked += 1
    assert asked == controller.planned == 5 * (3 + 2 * 2) + 6


# Failures for which no candidate is to blame


def storm(session: Session, workers: int, seed: int) -> None:
    """Run until, from a random moment on, every trial fails and the search gives up."""
    rng, live, working = random.Random(seed), [], True
    while not session.done or live:
        while len(live) < workers and (candidate := session.ask()) is not None:
            session.started(candidate, "host", "cpu")
            live.append(candidate)
        if not live:
            continue
        candidate = live.pop(rng.randrange(len(live)))
        working = working and rng.random() > 0.08
        well = working or (workers > 1 and rng.random() < 0.1)
        session.tell(candidate, score(candidate) if well else Outcome.failed("no disk"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_resume_tries_the_failures_that_ended_a_search_again(store, workers, seed):
    broken = new_session(store, "a", conditions="one")
    storm(broken, workers, seed)
    before = store.trials(broken.search_id)
    resumed = new_session(store, "a", conditions="one")  # the replay raises if it is not exact
    rows = {row.number: row for row in store.trials(resumed.search_id)}
    assert sorted(row.tell_order for row in rows.values() if row.tell_order is not None) == list(
        range(resumed.outcomes)
    )
    if broken.failure is not None:
        queued = [row for row in rows.values() if row.status is Status.QUEUED]
        first = min(row.tell_order for row in before if row.number in {q.number for q in queued})
        assert all(row.asked_after <= first for row in rows.values())
    for row in before:
        if row.status in (Status.COMPLETED, Status.STOPPED) and row.reused_from is None:
            assert rows[row.number].outcome == row.outcome, "no score is lost"
    work(resumed, workers)
    assert new_session(store, "a", conditions="one").done
    if workers == 1:
        work(new_session(store, "whole", conditions="two"))
        assert table(store, "a") == table(store, "whole")


def test_a_failure_that_others_followed_stays(store):
    session = new_session(store, "a")
    for number in range(4):
        candidate = session.ask()
        session.started(candidate, "host", "cpu")
        session.tell(candidate, Outcome.failed("x") if number == 1 else score(candidate))
    before = table(store, "a")
    new_session(store, "a")
    assert table(store, "a") == before


def test_a_search_that_gave_up_stays_so_whatever_is_told_late(store):
    session = new_session(store, "a")
    late, *candidates = [session.ask() for _ in range(MAX_FAILURES + 1)]
    for candidate in candidates:
        session.started(candidate, "host", "cpu")
        session.tell(candidate, Outcome.failed("no disk", "node-7"))
    session.tell(late, score(late))
    assert session.done
    assert session.failure.host == "node-7"


def test_what_the_filter_rejects_does_not_interrupt_a_row_of_failures(store):
    """The filter works where no training does, on a full disk for example."""
    session = new_session(store, "a")
    for number in range(2 * MAX_FAILURES - 1):
        candidate = session.ask()
        session.started(candidate, "host", "cpu")
        rejected = Outcome.rejected("shape error")
        session.tell(candidate, rejected if number % 2 else Outcome.failed("no disk"))
    assert session.done
    assert store.counts(session.search_id)[Status.REJECTED] == MAX_FAILURES - 1
    assert store.requeue_failures(session.search_id, MAX_FAILURES) == MAX_FAILURES
    work(new_session(store, "a"))
    work(new_session(store, "whole", conditions="other"))
    assert table(store, "a") == table(store, "whole")


def test_a_score_that_a_worker_found_between_failures_is_kept(store):
    session = new_session(store, "a")
    candidates = [session.ask() for _ in range(MAX_FAILURES)]
    session.tell(candidates[0], Outcome.failed("no disk"))
    late = session.ask()
    for candidate in (late, *candidates):
        if candidate is not candidates[0]:
            session.started(candidate, "host", "cpu")
    for candidate in candidates[1:]:
        session.tell(candidate, Outcome.failed("no disk"))
    assert session.done
    session.tell(late, Outcome(Status.COMPLETED, score=0.75))
    resumed = new_session(store, "a")
    rows = {row.number: row for row in store.trials(resumed.search_id)}
    assert (rows[late.number].status, rows[late.number].score) == (Status.COMPLETED, 0.75)
    statuses = [rows[candidate.number].status for candidate in candidates]
    assert statuses == [Status.FAILED, *[Status.QUEUED] * 4], "the score was asked for after it"
    work(resumed)
    assert resumed.done


# Scores that are no numbers


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_fails_the_candidate(store, value):
    session = new_session(store, "a")
    first = session.ask()
    session.started(first, "host", "cpu")
    session.tell(first, Outcome(Status.COMPLETED, score=value, metrics={"bbox_mAP": value}))
    assert session.controller.best is None
    row = store.trials(session.search_id)[first.number]
    assert (row.status, row.score) == (Status.FAILED, None)
    assert f"the score is {value}" in row.error
    work(session)
    assert math.isfinite(session.controller.best[1].score)


@pytest.mark.parametrize(("at", "stop"), [(0, 8), (0, 30), (3, 8), (12, 25), (20, None)])
def test_a_search_whose_database_holds_nan_as_a_score_resumes(url, monkeypatch, at, stop):
    """As earlier versions wrote it: NaN on PostgreSQL, no score on SQLite."""
    number = iter(range(10_000))
    store = Store(url)

    def sometimes_nan(candidate: Candidate) -> Outcome:
        known = score(candidate)
        spoilt = known.completed and next(number) == at
        return replace(known, score=math.nan) if spoilt else known

    with monkeypatch.context() as patch:
        patch.setattr(Outcome, "checked", lambda outcome: outcome, raising=False)
        work(new_session(store, "a"), stop_after=stop, scored=sometimes_nan)
    search = store.search("a").id
    before = [row for row in store.trials(search) if row.tell_order is not None]
    resumed = new_session(store, "a")
    work(resumed)
    assert resumed.done
    after = {row.number: row for row in store.trials(search)}
    assert all(str(after[row.number].outcome) == str(row.outcome) for row in before)
    best = store.best(search)
    finite = [r.score for r in after.values() if r.score is not None and math.isfinite(r.score)]
    assert best.score == max(finite)
    assert resumed.controller.best[1].score == best.score
    store.close()


# Trials that are stopped early


def run_alone(settings: Search, conditions: str, store: Store) -> Session:
    search = store.create_search(conditions, {}, conditions, 0)
    controller = new_controller(settings=settings)
    session = Session(controller, store, search.id, conditions, 0)
    work(session)
    return session


def test_a_search_that_stops_trials_early_tries_the_same_and_finds_the_same(store):
    settings = Search(population=5, iterations=8, weights=20)
    early = run_alone(settings, "early", store)
    whole = run_alone(settings.model_copy(update={"early_stop": False}), "whole", store)
    rows = {name: table(store, name) for name in ("early", "whole")}
    stopped = [row[0] for row in rows["early"] if row[3] is Status.STOPPED]
    assert len(stopped) > 0.2 * len(rows["early"])
    assert [row[:3] for row in rows["early"]] == [row[:3] for row in rows["whole"]]
    assert early.controller.best[0] == whole.controller.best[0]
    for trial in store.trials(early.search_id):
        if trial.number not in stopped:
            assert trial.score == rows["whole"][trial.number][4]
        elif trial.reused_from is None:
            assert (trial.score, trial.reason) == (None, "stopped halfway")
            assert trial.early_score is not None


def test_a_bar_asks_for_the_largest_gain_so_far_and_only_after_some_trials(store):
    settings = Search(population=14, top_k=2, sample_ratio=1)
    controller = Controller(SearchSpace.preset().only(["global"]), settings, seed=0)
    scores = [0.30, 0.50, 0.40, 0.45, 0.42, 0.44, 0.43, 0.41, 0.2, 0.1, 0.48, 0.05, 0.49, 0.6]
    gains = [0.10, 0.12, 0.11, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.46, 0.1]
    bars = []
    for final, gain in zip(scores, gains, strict=True):
        candidate = controller.ask()
        bars.append(candidate.early_bar)
        outcome = Outcome(Status.COMPLETED, score=final, early_score=final - gain)
        controller.tell(candidate, outcome)
    assert bars[:LEAST] == [0.0] * LEAST, "too few have shown what they gain"
    assert bars[LEAST:] == pytest.approx([0.45 - 0.12, 0.48 - 0.12, 0.48 - 0.12, 0.49 - 0.46])
    assert controller.ask().early_bar == pytest.approx(0.5 - 0.46)
    controller = Controller(SearchSpace.preset().only(["global"]), settings, seed=0)
    for _ in range(LEAST):
        controller.tell(controller.ask(), Outcome(Status.COMPLETED, score=0.5, early_score=0.0))
    assert controller.ask().early_bar is None, "no AP halfway is too low for such gains"


def test_what_one_search_stopped_another_with_a_lower_bar_trains_to_the_end(store):
    first, second = new_session(store, "a"), new_session(store, "b")
    candidate = first.ask()
    stopped = Outcome(Status.STOPPED, early_score=0.2, reason="stopped halfway")
    first.tell(candidate, stopped)
    assert second.ask() == candidate, "nothing is stopped before some trials have shown their gains"
    again = first.store.scored("same", candidate.distiller.key, 0.3)
    assert again.outcome == stopped


def test_a_resume_gives_open_candidates_their_bars_back(store):
    whole = new_session(store, "whole", conditions="one")
    bars = {c.number: c.early_bar for c in work(whole)}
    assert any(bars.values())
    for stop in range(12, 30, 3):
        name = f"killed after {stop}"
        live = work(new_session(store, name, conditions=name), stop_after=stop)[-1]
        resumed = new_session(store, name, conditions=name)
        assert [c.early_bar for c in resumed.open] == [bars[live.number]]


def test_what_was_reused_takes_no_time(store):
    """Of two searches under the same conditions, the second reuses what the first has scored."""
    first = new_session(store, "first")
    for _ in range(4):
        candidate = first.ask()
        assert candidate is not None
        first.started(candidate, "host", "cpu")
        assert first.running[candidate.number].candidate == candidate
        first.tell(candidate, replace(score(candidate), seconds=30.0))
        assert first.running == {}
    trials = store.trials(first.search_id)
    ranked = sum(trial.outcome.ranked for trial in trials if trial.outcome)
    assert (first.took, first.lost) == ([30.0] * ranked, 30.0 * (4 - ranked))
    assert ranked > 0
    second = new_session(store, "second")
    for _ in range(4):
        second.ask()  # a rejection is no score, and goes to a worker again
    reused = store.trials(second.search_id, status=Status.COMPLETED)
    assert reused
    assert all(trial.seconds == 30.0 for trial in reused)
    assert second.took == []
    assert new_session(store, "second").took == [], "nor when it goes on"
    assert new_session(store, "first").took == [30.0] * ranked
