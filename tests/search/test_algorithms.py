"""The seam for algorithms: a stage's description, the table, and an algorithm from elsewhere."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice, product

import pytest
from detkds.db import Store
from detkds.search.algorithms import (
    ALGORITHMS,
    START_STAGE,
    Stage,
    TermStage,
    WeightStage,
    WholeStage,
    make_algorithm,
    rank,
)
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import (
    WEIGHTS_STAGE,
    Candidate,
    Distiller,
    Outcome,
    SearchSpace,
    Status,
    Term,
    WrongUse,
)
from detkds.space.options import KnowledgeOptions

SPACE = SearchSpace.preset().only(["global", "logits", "localization"])
START = (Distiller.parse("global: mask, l2 × 2"), Distiller.parse("logits: norm_n, l2 × 5"))
FOUND = Distiller((Term("fgbg", ("catt",), "l1", 5.0), Term("logits", ("norm_n",), "kl", 2.0)))
STAGES = [
    TermStage(SearchSpace.preset(), "instance"),
    TermStage(SearchSpace.preset("extended"), "label"),
    WeightStage(SearchSpace.preset(), FOUND),
    WholeStage(SearchSpace.preset("extended"), (FOUND, Distiller(()))),
]
#: How many candidates a stage of :class:`Sweep` takes.
BUDGET = 6


class Sweep:
    """An algorithm that knows nothing of Algorithm 1.

    It tries the stage's first distillers, then mutants of the best and choices in a random order.
    """

    def __init__(self, stage: Stage, settings: Search, rng: random.Random) -> None:
        self.stage, self.rng = stage, rng
        self.queue = list(stage.first)
        choices = list(islice(product(*stage.slots), 500))
        self.queue += [stage.decode(c) for c in rng.sample(choices, BUDGET) if any(c)]
        self.asked: dict[int, Candidate] = {}
        self.number = 0
        self.best: tuple[Candidate, Outcome] | None = None

    planned, bar, learns = BUDGET, None, False

    def ask(self) -> Candidate | None:
        if self.number == BUDGET:
            return None
        distiller = self.queue.pop(0)
        if self.best is not None and self.number % 2:
            distiller = self.stage.mutate(self.best[0].distiller, self.rng)
        candidate = Candidate(self.number, self.stage.name, distiller)
        self.asked[self.number] = candidate
        self.number += 1
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        del self.asked[candidate.number]
        scored = (candidate, outcome)
        if outcome.completed and (self.best is None or rank(scored) > rank(self.best)):
            self.best = scored

    @property
    def done(self) -> bool:
        return self.number == BUDGET and not self.asked


@pytest.fixture
def sweep(monkeypatch) -> Search:
    """Settings that name an algorithm which this test adds to the table."""
    monkeypatch.setitem(ALGORITHMS, "sweep", Sweep)
    return Search(algorithm="sweep", start=["pkd"])


def score(candidate: Candidate) -> Outcome:
    return Outcome(Status.COMPLETED, score=random.Random(candidate.distiller.key).random())


def session(store: Store, settings: Search) -> Session:
    search = store.find_search("a") or store.create_search("a", {}, "conditions", 0)
    controller = Controller(SPACE, settings, seed=0, start=START)
    opened = Session(controller, store, search.id, "conditions", 0)
    opened.resume()
    return opened


def work(session: Session, workers: int, stop_after: int | None = None) -> None:
    live: list[Candidate] = []
    rng, answered = random.Random(3), 0
    while not session.done and answered != stop_after:
        while len(live) < workers and (candidate := session.ask()) is not None:
            session.started(candidate, "host", "cpu")
            live.append(candidate)
        if live:
            candidate = live.pop(rng.randrange(len(live)))
            session.tell(candidate, score(candidate))
            answered += 1


def test_another_algorithm_runs_every_stage(store, sweep):
    running = session(store, sweep)
    assert running.controller.planned == 4 * BUDGET + len(START)
    work(running, workers=2)
    trials = store.trials(running.search_id)
    assert len(trials) == 4 * BUDGET + len(START)
    by_stage = {
        stage: [t for t in trials if t.stage == stage] for stage in {t.stage for t in trials}
    }
    assert set(by_stage) == {START_STAGE, *SPACE.knowledge, WEIGHTS_STAGE}
    assert [trial.distiller for trial in by_stage[START_STAGE]] == list(START)
    assert [by_stage[one.terms[0].knowledge][0].distiller for one in START] == list(START)
    best = [
        max(by_stage[name], key=lambda t: t.score).distiller.terms[0] for name in SPACE.knowledge
    ]
    assert by_stage[WEIGHTS_STAGE][0].distiller == Distiller(tuple(best))
    assert running.controller.best[1].score == max(trial.score for trial in trials)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("stop", [0, 5, 19, 23])
def test_another_algorithm_replays_from_the_store(store, sweep, stop, workers):
    work(session(store, sweep), workers, stop_after=stop)
    before = [trial for trial in store.trials(None) if trial.outcome is not None]
    assert len(before) >= stop
    work(session(store, sweep), workers)
    after = store.trials(None)
    assert [after[trial.number] for trial in before] == before
    assert len(after) == 4 * BUDGET + len(START)
    resumed = session(store, sweep)
    assert resumed.done, "the outcomes of the whole search replay"


def test_a_resume_under_another_algorithm_is_refused(store, sweep):
    work(session(store, sweep), workers=1, stop_after=5)
    with pytest.raises(WrongUse, match=r"not what this configuration would try: .* algorithm"):
        session(store, Search())


def test_an_unknown_algorithm_is_refused(sweep):
    with pytest.raises(WrongUse) as error:
        Controller(SPACE, Search(algorithm="sweeep"), seed=0)
    assert str(error.value) == "search.algorithm: unknown algorithm 'sweeep': did you mean sweep?"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_proposes_what_its_slots_hold(stage):
    rng = random.Random(0)
    one, two = stage.random(rng), stage.random(rng)
    for _ in range(200):
        mutant, child = stage.mutate(one, rng), stage.crossover(one, two, rng)
        for distiller in (one, mutant, child):
            choices = stage.encode(distiller)
            assert len(choices) == len(stage.slots)
            assert all(choice in slot for choice, slot in zip(choices, stage.slots, strict=True))
            assert stage.decode(choices) == distiller
            assert distiller.active
        assert changes(stage, one, mutant) == 1
        parents = zip(stage.encode(one), stage.encode(two), strict=True)
        assert all(c in pair for c, pair in zip(stage.encode(child), parents, strict=True))
        one, two = mutant, one


def changes(stage: Stage, one: Distiller, other: Distiller) -> int:
    """How many slots differ; a term more or less is one change of a whole distiller."""
    if isinstance(stage, WholeStage) and len(one.terms) != len(other.terms):
        return len(set(one.terms) ^ set(other.terms))
    return sum(a != b for a, b in zip(stage.encode(one), stage.encode(other), strict=True))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "optuna:gp"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_algorithm_takes_as_many_candidates_as_it_plans(name, stage):
    settings = Search(algorithm=name, population=3, iterations=2, weights=7, trials=12)
    algorithm = make_algorithm(stage, settings, random.Random(0))
    asked = 0
    while not algorithm.done:
        candidate = algorithm.ask()
        algorithm.tell(candidate, score(candidate))
        asked += 1
    assert asked == algorithm.planned
    assert algorithm.best[0].stage == stage.name


ONE = KnowledgeOptions((("identity",),), ("l2",), weights=(5.0,))


@pytest.mark.parametrize(
    ("sampler", "space", "says"),
    [
        ("tpe", {"mgd": ONE}, "needs 1 or more options to choose, and the stage 'mgd' has 0"),
        ("gp", {"mgd": ONE}, "needs 1 or more options to choose, and the stage 'mgd' has 0"),
        (
            "cmaes",
            {"mgd": replace(ONE, weights=(1.0, 5.0))},
            "needs 2 or more options to choose, and the stage 'mgd' has 1",
        ),
    ],
)
def test_optuna_needs_something_to_choose(sampler, space, says):
    with pytest.raises(WrongUse, match=f"^search.algorithm: optuna:{sampler} {says}"):
        Controller(SearchSpace(space), Search(algorithm=f"optuna:{sampler}"), seed=0)


def test_optuna_says_nothing_of_its_own(capfd):
    for name in ("tpe", "cmaes", "nsga2"):
        settings = Search(algorithm=f"optuna:{name}", population=3, iterations=2, weights=4)
        controller = Controller(SPACE, settings, seed=0)
        while not controller.done:
            candidate = controller.ask()
            controller.tell(candidate, score(candidate))
    assert capfd.readouterr() == ("", "")


def test_thompson_proposes_nothing_twice():
    stage = WholeStage(SearchSpace.preset("extended"), START)
    settings = Search(algorithm="thompson", trials=40)
    algorithm, keys = make_algorithm(stage, settings, random.Random(0)), []
    while not algorithm.done:
        candidate = algorithm.ask()
        keys.append(candidate.distiller.key)
        algorithm.tell(candidate, score(candidate))
    assert len(set(keys)) == len(keys) == 40


def test_thompson_also_tries_terms_alone_where_all_that_is_known_has_many():
    space = SearchSpace.preset("extended")
    rng = random.Random(0)
    known = tuple(
        Distiller(tuple(space.random(kind, rng) for kind in space.knowledge)) for _ in range(4)
    )
    settings = Search(algorithm="thompson", trials=44)
    algorithm, sizes = make_algorithm(WholeStage(space, known), settings, random.Random(0)), []
    while not algorithm.done:
        candidate = algorithm.ask()
        sizes.append(len(candidate.distiller.active))
        algorithm.tell(candidate, Outcome(Status.COMPLETED, score=0.05 * sizes[-1]))
    count = Counter(sizes[4:])
    assert all(count[size] >= 4 for size in (1, 2, 3)), count
    assert sum(count[size] for size in count if size > 3) >= 4, "more terms have higher scores"
