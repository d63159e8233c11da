"""Algorithm 1 as ask and tell: its order with one worker, its population, its rejections."""

from __future__ import annotations

import random

import pytest
from detkds.search.algorithms import (
    TermEvolution,
    TermStage,
    WeightEvolution,
    WeightStage,
    WholeStage,
)
from detkds.search.algorithms.population import last_parent
from detkds.search.algorithms.random_search import random_search
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status, Term
from hypothesis import given
from hypothesis import strategies as st

SPACE = SearchSpace.preset()
PAPER = Search()


def completed(score: float) -> Outcome:
    return Outcome(Status.COMPLETED, score=score)


def score_of(candidate: Candidate) -> float:
    return random.Random(candidate.distiller.key).random()


def play(algorithm, outcome=lambda candidate: completed(score_of(candidate))) -> list[Candidate]:
    asked = []
    while not algorithm.done:
        candidate = algorithm.ask()
        asked.append(candidate)
        algorithm.tell(candidate, outcome(candidate))
    return asked


def test_the_papers_numbers_are_the_defaults():
    assert (PAPER.population, PAPER.iterations, PAPER.sample_ratio, PAPER.top_k) == (20, 40, 0.9, 5)
    assert PAPER.weights == 40


def test_one_knowledge_asks_for_the_population_and_two_an_iteration():
    asked = play(TermEvolution(TermStage(SPACE, "global"), PAPER, random.Random(0)))
    assert len(asked) == 20 + 2 * 40
    assert all(c.stage == "global" and len(c.distiller.terms) == 1 for c in asked)


def literal_algorithm(settings: Search, rng: random.Random) -> list[Distiller]:
    """Lines 2 to 11 as the paper prints them, one candidate after the other."""
    tried: list[Distiller] = []

    def evaluate(distiller: Distiller) -> float:
        tried.append(distiller)
        return random.Random(distiller.key).random()

    def sample() -> Distiller:
        return Distiller((SPACE.random("instance", rng),))

    population = []
    for _ in range(settings.population):
        drawn = sample()
        population.append((evaluate(drawn), len(tried) - 1, drawn))
    for _ in range(settings.iterations):
        population.sort(key=lambda member: (member[0], -member[1]), reverse=True)
        pool = rng.sample(population, max(1, round(settings.sample_ratio * len(population))))
        pool.sort(key=lambda member: (member[0], -member[1]), reverse=True)
        parent = rng.choice(pool[: settings.top_k])[2]
        mutant = Distiller((SPACE.mutate(parent.terms[0], rng),))
        first = (evaluate(mutant), len(tried) - 1, mutant)
        drawn = sample()
        second = (evaluate(drawn), len(tried) - 1, drawn)
        population.append(first if first[0] >= second[0] else second)
        population.remove(min(population, key=lambda member: (member[0], -member[1])))
    return tried


@pytest.mark.parametrize("seed", range(5))
def test_with_one_worker_it_is_algorithm_1(seed):
    settings = Search(population=8, iterations=12, top_k=3)
    ours = play(TermEvolution(TermStage(SPACE, "instance"), settings, random.Random(seed)))
    theirs = literal_algorithm(settings, random.Random(seed))
    assert [c.distiller for c in ours] == theirs


def test_a_rejected_candidate_is_drawn_again_in_its_place():
    settings = Search(population=4, iterations=3)
    bad = iter([True, False] * 100)

    def outcome(candidate):
        return Outcome.rejected("NaN") if next(bad) else completed(score_of(candidate))

    algorithm = TermEvolution(TermStage(SPACE, "fgbg"), settings, random.Random(1))
    assert len(play(algorithm, outcome)) == 2 * (4 + 2 * 3)
    assert algorithm.best is not None


def test_a_space_of_nothing_but_rejections_ends_without_a_best():
    algorithm = TermEvolution(
        TermStage(SPACE, "fgbg"), Search(population=2, iterations=5), random.Random(1)
    )
    asked = play(algorithm, lambda candidate: Outcome.rejected("loss is NaN"))
    assert algorithm.best is None
    assert len(asked) == 2 * 20


def test_more_workers_than_the_order_feeds_overlap_iterations():
    algorithm = TermEvolution(
        TermStage(SPACE, "global"), Search(population=3, iterations=4), random.Random(0)
    )
    first = [algorithm.ask() for _ in range(3)]
    assert algorithm.ask() is None, "nothing to breed from yet"
    algorithm.tell(first[0], completed(0.1))
    overlapped = [algorithm.ask() for _ in range(8)]
    assert all(overlapped)
    assert algorithm.ask() is None
    for candidate in first[1:] + overlapped:
        assert not algorithm.done
        algorithm.tell(candidate, completed(score_of(candidate)))
    assert algorithm.done


def test_best_is_the_highest_and_the_earliest_of_equals():
    algorithm = TermEvolution(
        TermStage(SPACE, "global"), Search(population=3, iterations=0), random.Random(0)
    )
    asked = [algorithm.ask() for _ in range(3)]
    for candidate, score in zip(reversed(asked), (0.4, 0.4, 0.2), strict=True):
        algorithm.tell(candidate, completed(score))
    assert algorithm.best[0] == asked[1]


FOUND = Distiller((Term("global", ("catt",), "l1", 5.0), Term("logits", ("norm_n",), "kl", 2.0)))
WEIGHTS = WeightStage(SPACE, FOUND)


def test_the_weights_stage_changes_weights_alone_and_starts_from_the_found_ones():
    settings = Search(population=10, weights=40)
    asked = play(WeightEvolution(WEIGHTS, settings, random.Random(0)))
    assert len(asked) == 40
    assert asked[0].distiller == FOUND
    for candidate in asked:
        terms = [(t.knowledge, t.transforms, t.distance) for t in candidate.distiller.terms]
        assert terms == [(t.knowledge, t.transforms, t.distance) for t in FOUND.terms]
        assert candidate.distiller.active, "all weights 0 is no distiller"
    weights = {t.weight for c in asked for t in c.distiller.terms}
    assert 0.0 in weights
    assert weights <= {0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 8.0, 10.0}


def test_random_weights_replace_the_found_ones_when_those_are_rejected():
    settings = Search(population=3, weights=6)
    asked = play(
        WeightEvolution(WEIGHTS, settings, random.Random(0)),
        lambda c: Outcome.rejected("too much") if c.distiller == FOUND else completed(0.1),
    )
    assert len(asked) == 7
    assert [c.distiller for c in asked].count(FOUND) == 1


def test_evolution_beats_random_search_where_options_matter():
    """On a landscape where every right slot counts, mutants find more than random terms."""
    target = SPACE.random("global", random.Random(99))

    def closeness(distiller: Distiller) -> float:
        pairs = zip(SPACE.encode(distiller.terms[0]), SPACE.encode(target), strict=True)
        return sum(ours == theirs for ours, theirs in pairs) / 5

    evolved, drawn = [], []
    for seed in range(10):
        algorithm = TermEvolution(TermStage(SPACE, "global"), PAPER, random.Random(seed))
        asked = play(algorithm, lambda c: completed(closeness(c.distiller)))
        evolved.append(algorithm.best[1].score)
        rng = random.Random(seed)
        randoms = [Distiller((SPACE.random("global", rng),)) for _ in asked]
        drawn.append(max(closeness(d) for d in randoms))
    assert sum(evolved) > sum(drawn)


# Candidates that are stopped early


def test_the_last_rank_that_breeds_is_that_of_the_papers_pool():
    assert last_parent(20, 0.9, 5) == 7, "18 of 20 are in the pool; the best two may be left out"
    assert last_parent(3, 0.9, 2) == 2
    assert last_parent(4, 0.5, 9) == 4


STOPPED = Outcome(Status.STOPPED, early_score=0.0, reason="stopped halfway")


def play_side_by_side(algorithm, workers: int, order: random.Random, stop: random.Random | None):
    """(number, distiller) in the order of asking, the numbers of the stopped, and the algorithm.

    With ``stop``, most candidates below the bar at the time of asking are told as stopped. One
    candidate in eight is rejected. Some scores are equal.
    """
    asked, live, stopped = [], [], []
    while not algorithm.done:
        while len(live) < workers and (candidate := algorithm.ask()) is not None:
            asked.append((candidate.number, candidate.distiller))
            live.append((candidate, algorithm.bar))
        candidate, bar = live.pop(order.randrange(len(live)))
        final = round(score_of(candidate), 2)
        if int(candidate.distiller.key, 16) % 8 == 0:
            outcome = Outcome.rejected("loss is NaN")
        elif stop is not None and bar is not None and final < bar and stop.random() < 0.9:
            outcome = STOPPED
            stopped.append(candidate.number)
        else:
            outcome = completed(final)
        algorithm.tell(candidate, outcome)
    return asked, stopped, algorithm


PAIR = SPACE.only(["global", "logits"])
FIRST = (Distiller(()), FOUND, Distiller.parse("global: identity, pearson × 3"))
EVOLUTIONS = {
    "whole": lambda settings: TermEvolution(WholeStage(PAIR, FIRST), settings, random.Random(0)),
    "random": lambda settings: random_search(TermStage(SPACE, "fgbg"), settings, random.Random(0)),
    "terms": lambda settings: TermEvolution(TermStage(SPACE, "fgbg"), settings, random.Random(0)),
    "weights": lambda settings: WeightEvolution(WEIGHTS, settings, random.Random(0)),
}


@pytest.mark.parametrize("evolution", EVOLUTIONS)
@given(
    population=st.integers(1, 12),
    iterations=st.integers(0, 15),
    sample_ratio=st.floats(0.1, 1),
    top_k=st.integers(1, 6),
    workers=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_stopping_what_stays_below_the_bar_changes_no_candidate_and_no_best(
    evolution, workers, seed, **options
):
    settings = Search(weights=30, **options)
    whole, none, one = play_side_by_side(
        EVOLUTIONS[evolution](settings), workers, random.Random(seed), None
    )
    early, _, two = play_side_by_side(
        EVOLUTIONS[evolution](settings), workers, random.Random(seed), random.Random(seed)
    )
    assert not none
    assert early == whole
    assert two.best == one.best


def test_most_of_the_papers_candidates_are_below_the_bar():
    algorithm = TermEvolution(TermStage(SPACE, "global"), PAPER, random.Random(0))
    asked, stopped, _ = play_side_by_side(algorithm, 1, random.Random(0), random.Random(0))
    assert len(stopped) > 0.5 * len(asked)
