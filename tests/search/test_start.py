"""What populations start from: presets, files, notation and earlier searches."""

from __future__ import annotations

import random

import pytest
from detkds.configs import distiller_file
from detkds.db import Store
from detkds.search.algorithms import TermEvolution, TermStage
from detkds.search.plans.start import start_terms
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status, Term, WrongUse

SPACE = SearchSpace.preset()


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as opened:
        yield opened


def test_terms_come_from_presets_files_and_notation_each_once(store, tmp_path):
    file = tmp_path / "mine.json"
    Distiller.parse("logits: norm_n, l2 × 3; fgbg: mask, l1 × 0").to_json(file)
    found = start_terms(
        ["pkd", str(file), "global: identity, pearson × 5; logits: norm_n, kl", "pkd"], SPACE, store
    )
    assert [str(term) for term in found] == [
        "global: identity, pearson × 5",
        "logits: norm_n, l2 × 3",
        "logits: norm_n, kl × 1",
    ]


def test_a_term_of_the_papers_keeps_its_spelling_and_stands_for_its_function(store):
    written, plain = "instance: catt → scale_1 → norm_c, smooth_l1 × 1", "instance: catt → norm_c, "
    found = start_terms([written, plain + "smooth_l1", "detkds_one_stage"], SPACE, store)
    assert [str(term) for term in found if term.knowledge == "instance"] == [written]
    (first,) = (term for term in found if term.knowledge == "instance")
    settings = Search(population=1, iterations=2, top_k=1)
    stage = TermStage(SPACE, "instance", (first,))
    algorithm = TermEvolution(stage, settings, random.Random(0))
    asked = []
    while not algorithm.done:
        candidate = algorithm.ask()
        asked.append(candidate.distiller)
        algorithm.tell(candidate, Outcome(Status.COMPLETED, score=1 / len(asked)))
    assert asked[0].terms == (first,)
    assert asked[1] != asked[0], "a mutant is another function than its parent"


def test_knowledge_that_is_not_searched_is_left_out(store):
    found = start_terms(["detkds_one_stage"], SPACE.only(["instance", "global"]), store)
    assert [term.knowledge for term in found] == ["global", "instance"]


def test_an_earlier_search_gives_the_best_of_each_stage(store):
    search = store.create_search("before", {}, "c", 0)
    stages = [
        ("global", "global: mask, l1 × 2", 0.1),
        ("global", "global: catt, l1 × 2", 0.3),
        ("logits", "logits: norm_n, l2 × 5", 0.2),
        ("logits", "logits: norm_c, l2 × 5", None),
        ("weights", "global: catt, l1 × 8; logits: norm_n, l2 × 0", 0.4),
    ]
    for number, (stage, text, score) in enumerate(stages):
        candidate = Candidate(number, stage, Distiller.parse(text))
        trial = store.add_trial(search.id, candidate, asked_after=0, conditions="c", seed=0)
        outcome = (
            Outcome.rejected("no") if score is None else Outcome(Status.COMPLETED, score=score)
        )
        store.tell_trial(trial, outcome, tell_order=number)
    found = start_terms(["search:before"], SPACE, store)
    expected = ["global: catt, l1 × 2", "logits: norm_n, l2 × 5", "global: catt, l1 × 8"]
    assert [str(term) for term in found] == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("search:befor", "no search 'befor' in sqlite.*did you mean before"),
        ("pdk", "no such distiller.*did you mean pkd"),
        ("cwd", "'kl_hw' for global is not in the space; set search.space=extended"),
        ("global: cat, l1", "unknown transform 'cat'.*did you mean catt"),
    ],
)
def test_what_is_not_there_is_told(store, reference, message):
    store.create_search("before", {}, "c", 0)
    with pytest.raises(WrongUse, match=message):
        start_terms([reference], SPACE, store)


def test_a_factor_that_the_space_lacks_is_told(store):
    """A mutation would lose the factor."""
    space = SearchSpace.preset("extended")
    text = "label: identity, l1 × 5 stepwise"
    assert start_terms([f"{text} × 2"], space, store)
    with pytest.raises(WrongUse, match="a factor of 4 for label is not in the space"):
        start_terms([f"{text} × 4"], space, store)


def test_the_extended_space_holds_every_preset(store):
    names = [path.stem for path in distiller_file("pkd").parent.glob("*.json")]
    assert len(names) >= 12
    assert start_terms(names, SearchSpace.preset("extended"), store)


def test_a_population_starts_with_them():
    start = tuple(Term("global", ("catt",), "l1", weight) for weight in (1.0, 2.0, 5.0))
    settings = Search(population=2, iterations=0)
    algorithm = TermEvolution(TermStage(SPACE, "global", start), settings, random.Random(0))
    asked = [algorithm.ask().distiller.terms[0] for _ in range(2)]
    assert asked == list(start[:2])
    settings = Search(population=5, iterations=0)
    algorithm = TermEvolution(TermStage(SPACE, "global", start), settings, random.Random(0))
    asked = [algorithm.ask().distiller.terms[0] for _ in range(5)]
    assert asked[:3] == list(start)
    assert not set(asked[3:]) & set(start)
