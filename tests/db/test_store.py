"""What the store writes and reads back, on SQLite and on a real PostgreSQL."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from detkds import __version__
from detkds.db import Store
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status, WrongUse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

SPACE = SearchSpace.preset()
GLOBAL = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")
LOGITS = Distiller.parse("logits: softmax_c, kl × 2")


def completed(score: float) -> Outcome:
    return Outcome(Status.COMPLETED, score=score, metrics={"bbox_mAP": score}, seconds=1.5)


def add(store: Store, search_id: int, number: int, distiller: Distiller = GLOBAL, **k) -> int:
    candidate = Candidate(number, k.pop("stage", "global"), distiller)
    options = {"asked_after": 0, "conditions": "c", "seed": number} | k
    return store.add_trial(search_id, candidate, **options)


# Values


terms = st.tuples(st.sampled_from(SPACE.knowledge), st.randoms(use_true_random=False)).map(
    lambda drawn: SPACE.random(*drawn)
)
distillers = st.lists(terms, max_size=5, unique_by=lambda term: term.knowledge).map(
    lambda drawn: Distiller(tuple(drawn))
)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
outcomes = st.builds(
    Outcome,
    status=st.sampled_from([Status.COMPLETED, Status.STOPPED, Status.REJECTED, Status.FAILED]),
    score=st.none() | st.floats(0, 1),
    early_score=st.none() | st.floats(0, 1),
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=4),
    reason=st.none() | words,
    error=st.none() | words,
    seconds=st.none() | st.floats(0, 1e9),
    host=st.none() | words.filter(bool),
    device=st.none() | words.filter(bool),
)


@given(distiller=distillers, stage=words, outcome=outcomes, seed=st.integers(0, 2**63 - 1))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_candidates_and_outcomes_are_read_as_written(store, distiller, stage, outcome, seed):
    number = len(store.searches())
    search = store.create_search(f"s{number}", {}, "c", seed)
    candidate = Candidate(number, stage, distiller)
    trial_id = store.add_trial(search.id, candidate, asked_after=0, conditions="c", seed=seed)
    (asked,) = store.trials(search.id)
    assert (asked.candidate, asked.outcome, asked.tell_order) == (candidate, None, None)
    store.tell_trial(trial_id, outcome, tell_order=0)
    (told,) = store.trials(search.id)
    assert (told.candidate, told.outcome, told.tell_order) == (candidate, outcome, 0)
    assert (told.notation, told.key, told.seed) == (str(distiller), distiller.key, seed)


def test_times_are_utc_and_in_order(store):
    before = datetime.now(timezone.utc)
    search = store.create_search("a", {}, "c", 0)
    trial_id = add(store, search.id, 0)
    store.start_trial(trial_id, "host", "cuda:0")
    store.tell_trial(trial_id, completed(0.5), tell_order=0)
    store.finish_search(search.id)
    (trial,) = store.trials(search.id)
    finished = store.search("a").finished
    times = [before, search.created, trial.queued, trial.started, trial.finished, finished]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert (trial.host, trial.device) == ("host", "cuda:0")


def test_odd_texts_and_numbers_are_stored(store):
    search = store.create_search("Suche → ü", {"naïve": [1, None, {"ß": "\0"}]}, "c", 0)
    assert store.search("Suche → ü") == search
    trial_id = add(store, search.id, 0)
    score, scores = np.float32(0.5), {"ap": np.float32(0.25), "loss": float("nan")}
    store.tell_trial(
        trial_id, Outcome(Status.FAILED, score, scores, error="\0 \udcff é"), tell_order=0
    )
    (trial,) = store.trials(search.id)
    assert (trial.score, trial.metrics["ap"], trial.error) == (0.5, 0.25, "\\x00 \\udcff é")
    assert np.isnan(trial.metrics["loss"])


# Searches


def test_searches_are_found_by_name(store):
    with pytest.raises(WrongUse, match=r"holds no search 'first': .*none yet"):
        store.search("first")
    first = store.create_search("first", {"stages": {"global": 40}}, "abc", 7)
    second = store.create_search("second", {}, "abc", 7)
    assert (first.config, first.conditions, first.seed) == ({"stages": {"global": 40}}, "abc", 7)
    assert (first.finished, first.version) == (None, __version__)
    assert store.searches() == [first, second]
    assert store.find_search("third") is None
    with pytest.raises(WrongUse, match="did you mean second"):
        store.search("secnd")
    with pytest.raises(
        WrongUse, match=r"^name: .* 'first' already: resume it or give another name"
    ):
        store.create_search("first", {}, "abc", 7)


# Trials


def test_trials_are_listed_counted_and_ranked(store):
    other = store.create_search("other", {}, "c", 0)
    search = store.create_search("mine", {}, "c", 0)
    add(store, other.id, 0)
    scores = {3: 0.25, 1: 0.5, 2: 0.5}
    for told, number in enumerate([3, 2, 1, 0, 4, 5]):
        trial_id = add(store, search.id, number, stage="logits" if number % 2 else "global")
        if number in scores:
            store.tell_trial(trial_id, completed(scores[number]), told)
        elif number == 0:
            store.tell_trial(trial_id, Outcome.rejected("loss > 100"), told)
        elif number == 4:
            store.start_trial(trial_id, "host", "cpu")
    numbers = [trial.number for trial in store.trials(search.id)]
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert [trial.number for trial in store.trials(search.id, stage="logits")] == [1, 3, 5]
    done = store.trials(search.id, stage="logits", status=Status.COMPLETED)
    assert [trial.number for trial in done] == [1, 3]
    assert len(store.trials(None)) == 7
    best = store.best(search.id)
    assert best is not None
    assert (best.number, best.score) == (1, 0.5)
    assert store.best(other.id) is None
    counts = store.counts(search.id)
    assert [counts[s] for s in Status] == [1, 1, 3, 0, 1, 0]


def test_a_completed_trial_without_score_is_never_the_best(store):
    search = store.create_search("a", {}, "c", 0)
    store.tell_trial(add(store, search.id, 0), Outcome(Status.COMPLETED), tell_order=0)
    store.tell_trial(add(store, search.id, 1), completed(0.1), tell_order=1)
    best = store.best(search.id)
    assert best is not None
    assert best.number == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_no_completed_outcome(store, value):
    search = store.create_search("a", {}, "c", 0)
    store.tell_trial(add(store, search.id, 0), completed(value), tell_order=0)
    stopped = Outcome(Status.STOPPED, early_score=value)
    store.tell_trial(add(store, search.id, 1), stopped, tell_order=1)
    training = store.add_training("found", 0, "val", "c", search.id)
    store.finish_training(training, completed(value))
    rows = [*store.trials(search.id), *store.trainings()]
    assert [(row.status, row.score) for row in rows] == [(Status.FAILED, None)] * 3
    assert store.trials(search.id)[1].early_score is None
    assert all(str(value) in row.error for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_a_score_that_is_no_number_is_neither_the_best_nor_reused(store, value):
    """Earlier versions wrote such scores. SQLite holds NULL for NaN."""
    search = store.create_search("a", {}, "c", 0)
    store.tell_trial(add(store, search.id, 0), completed(0.9), tell_order=0)
    store.tell_trial(add(store, search.id, 1, LOGITS), completed(0.1), tell_order=1)
    with store._engine.begin() as connection:
        query = text("UPDATE trials SET score = :score WHERE number = 0")
        connection.execute(query, {"score": value})
    assert store.best(search.id).number == 1
    assert store.scored("c", GLOBAL.key) is None
    assert store.scored("c", LOGITS.key).number == 1


def test_scores_are_reused_under_the_same_conditions_only(store):
    first = store.create_search("first", {}, "c", 0)
    second = store.create_search("second", {}, "c", 0)
    copy, source = add(store, second.id, 0), add(store, first.id, 0)
    assert store.scored("c", GLOBAL.key) is None
    store.tell_trial(source, completed(0.5), tell_order=0)
    store.tell_trial(add(store, first.id, 1, LOGITS), Outcome.rejected("NaN"), tell_order=1)
    found = store.scored("c", GLOBAL.key)
    assert found is not None
    assert (found.id, found.outcome) == (source, completed(0.5))
    assert store.scored("d", GLOBAL.key) is None
    assert store.scored("c", LOGITS.key) is None
    store.tell_trial(copy, found.outcome, tell_order=0, reused_from=source)
    assert store.trials(second.id)[0].reused_from == source
    assert store.scored("c", GLOBAL.key) == found


def test_a_stopped_trial_answers_only_those_whom_its_early_score_stops(store):
    search = store.create_search("a", {}, "c", 0)
    reason = "stopped halfway"
    stopped = Outcome(Status.STOPPED, early_score=0.1, reason=reason)
    store.tell_trial(add(store, search.id, 0), stopped, tell_order=0)
    assert store.best(search.id) is None
    for bar in (None, 0.0, 0.1):
        assert store.scored("c", GLOBAL.key, bar) is None, "it might reach the top there"
    found = store.scored("c", GLOBAL.key, 0.2)
    assert found is not None
    assert found.outcome == stopped
    again = add(store, search.id, 1)
    store.tell_trial(again, completed(0.5), tell_order=1)
    for bar in (None, 0.0, 0.2):
        found = store.scored("c", GLOBAL.key, bar)
        assert found is not None
        assert found.id == again, "a whole score is better than an early one"


def test_interrupted_trials_are_queued_again(store):
    search = store.create_search("a", {}, "c", 0)
    told, running, queued = (add(store, search.id, number) for number in range(3))
    for trial_id in (told, running):
        store.start_trial(trial_id, "host", "cpu")
    store.tell_trial(told, completed(0.5), tell_order=0)
    assert store.requeue(search.id) == 1
    assert store.requeue(search.id) == 0
    trials = store.trials(search.id)
    assert [trial.status.value for trial in trials] == ["completed", "queued", "queued"]
    assert [trials[1].started, trials[1].host, trials[1].device] == [None, None, None]
    store.start_trial(queued, "host", "cpu")


def test_events_give_the_order_of_asks_and_tells(store):
    search = store.create_search("a", {}, "c", 0)
    happened: list[tuple[str, int]] = []
    ids: list[int] = []
    told = 0
    for step in ("ask", "ask", "tell 1", "ask", "tell 0", "tell 2", "ask"):
        if step == "ask":
            ids.append(add(store, search.id, len(ids), asked_after=told))
            happened.append(("ask", len(ids) - 1))
        else:
            number = int(step.split()[1])
            store.tell_trial(ids[number], completed(0.1), told)
            happened.append(("tell", number))
            told += 1
    events = store.events(search.id)
    tells = sorted((e for e in events if e.tell_order is not None), key=lambda e: e.tell_order)
    replayed: list[tuple[str, int]] = []
    for event in events:
        while len(tells) and tells[0].tell_order < event.asked_after:
            replayed.append(("tell", tells.pop(0).number))
        replayed.append(("ask", event.number))
    assert replayed + [("tell", event.number) for event in tells] == happened


def test_wrong_steps_are_refused_and_change_nothing(store):
    search = store.create_search("a", {}, "c", 0)
    first, second = add(store, search.id, 0), add(store, search.id, 1)
    store.tell_trial(first, completed(0.5), tell_order=0)
    before = store.trials(None)
    with pytest.raises(WrongUse, match="another process runs the search 'a'"):
        add(store, search.id, 1)
    with pytest.raises(WrongUse, match="another process runs the search 'a'"):
        store.tell_trial(second, completed(0.1), tell_order=0)
    with pytest.raises(WrongUse, match="another process runs the search 'a'"):
        store.tell_trial(first, completed(0.1), tell_order=1)
    with pytest.raises(WrongUse, match="another process runs the search 'a'"):
        store.start_trial(first, "host", "cpu")
    with pytest.raises(ValueError, match="not running"):
        store.tell_trial(second, Outcome(Status.RUNNING), tell_order=1)
    for step in (
        lambda: add(store, 99, 0),
        lambda: store.start_trial(99, "host", "cpu"),
        lambda: store.finish_search(99),
        lambda: store.finish_training(99, completed(0.1)),
        lambda: store.add_training("alone", 0, "val", "c", search_id=99),
    ):
        with pytest.raises(LookupError, match="no row 99"):
            step()
    assert store.trials(None) == before


def test_records_are_flat_and_have_the_same_keys(store):
    search = store.create_search("mine", {}, "c", 0)
    store.tell_trial(add(store, search.id, 0), completed(0.5), tell_order=0)
    add(store, search.id, 1)
    other = store.create_search("other", {}, "c", 0)
    outcome = Outcome(Status.COMPLETED, 0.1, {"score": 3.0})
    store.tell_trial(add(store, other.id, 0, LOGITS), outcome, tell_order=0)
    records = store.trial_records()
    assert len({tuple(record) for record in records}) == 1
    shown = [
        [r[k] for k in ("search", "number", "status", "score", "metrics.bbox_mAP", "metrics.score")]
        for r in records
    ]
    assert shown == [
        ["mine", 0, "completed", 0.5, 0.5, None],
        ["mine", 1, "queued", None, None, None],
        ["other", 0, "completed", 0.1, None, 3.0],
    ]
    assert records[2]["notation"] == str(LOGITS)
    assert store.trial_records(search.id)[0].keys() == records[0].keys() - {"metrics.score"}


# Trainings


def test_trainings_are_stored_with_and_without_a_search(store):
    search = store.create_search("a", {}, "c", 0)
    alone = store.add_training("alone", 1, "test", "c")
    found = store.add_training(
        "found", 2, "val", "c", search_id=search.id, distiller=GLOBAL, checkpoint="student.pth"
    )
    running = store.trainings(search.id)
    assert [(row.status, row.outcome) for row in running] == [(Status.RUNNING, None)]
    assert [row.checkpoint for row in running] == ["student.pth"], "where its student will be"
    outcome = replace(completed(0.5), host="h", device="cuda:0")
    store.finish_training(found, outcome, "runs/found/student.pth")
    store.finish_training(alone, Outcome(Status.REJECTED, reason="loss is NaN"))
    first, second = store.trainings()
    assert (first.distiller, first.checkpoint, first.reason) == (None, None, "loss is NaN")
    assert (first.search_id, second.search_id) == (None, search.id)
    assert (second.name, second.seed, second.split) == ("found", 2, "val")
    assert (second.distiller, second.checkpoint) == (GLOBAL, "runs/found/student.pth")
    assert (second.score, second.host, second.device) == (0.5, "h", "cuda:0")


def test_a_resumed_training_keeps_its_row(store):
    search = store.create_search("a", {}, "c", 0)
    first = store.add_training("found", 1, "test", "c", search.id, GLOBAL)
    others = [
        store.add_training("found", 2, "test", "c", search.id, GLOBAL),
        store.add_training("found", 1, "test", "c"),
        store.add_training("alone", 1, "test", "c", search.id),
    ]
    assert store.add_training("found", 1, "test", "c", search.id, GLOBAL) == first
    assert first not in others
    store.finish_training(first, completed(0.5))
    again = store.add_training("found", 1, "test", "c", search.id, GLOBAL)
    assert again not in (first, *others), "a finished training is not resumed"
