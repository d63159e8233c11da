"""What searches start from: presets, files, notation, earlier searches, the student alone."""

from __future__ import annotations

import random

import pytest
from detkds.configs import distiller_file
from detkds.db import Store
from detkds.search.algorithms import TermEvolution, TermStage
from detkds.search.controller import Controller
from detkds.search.plans.start import start_distillers
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status, Term, WrongUse

SPACE = SearchSpace.preset()


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as opened:
        yield opened


def notations(distillers: list[Distiller]) -> list[str]:
    return [str(one).replace("\n", "; ") for one in distillers]


def test_distillers_come_from_presets_files_and_notation_each_once(store, tmp_path):
    file = tmp_path / "mine.json"
    Distiller.parse("logits: norm_n, l2 × 3; fgbg: mask, l1 × 0").to_json(file)
    found = start_distillers(
        ["pkd", str(file), "global: identity, pearson × 5; logits: norm_n, kl", "pkd"], SPACE, store
    )
    assert notations(found) == [
        "global: identity, pearson × 5",
        "logits: norm_n, l2 × 3",
        "global: identity, pearson × 5; logits: norm_n, kl × 1",
    ]
    assert [one.name for one in found] == ["pkd", None, None]


def test_the_student_alone_and_all_presets_that_the_space_holds(store):
    found = start_distillers(["none", "presets", "pkd"], SPACE, store)
    names = [one.name for one in found]
    assert names[0] == "none"
    assert found[0] == Distiller(())
    assert {"pkd", "fgd", "ld", "detkds_one_stage", "detkds_retinanet_x101"} <= {*names}
    assert not {"crosskd", "sssd", "mgd", "cwd"} & {*names}, "the space lacks a part of them"
    assert len({one.key for one in found}) == len(found)
    keys = {one.key for one in found}
    for name in ("detkds_gfl_r101", "detkds_reppoints_x101"):  # one and the same
        assert Distiller.from_json(distiller_file(name)).key in keys
    features = SPACE.only(["global"])
    assert all(len(one.terms) <= 1 for one in start_distillers(["presets"], features, store))


def test_the_default_is_all_that_is_known():
    assert Search().start == ["none", "presets"]
    assert Search().space == "extended"


def test_a_term_of_the_papers_keeps_its_spelling_and_stands_for_its_function(store):
    written, plain = "instance: catt → scale_1 → norm_c, smooth_l1 × 1", "instance: catt → norm_c, "
    found = start_distillers([written, plain + "smooth_l1", "detkds_one_stage"], SPACE, store)
    assert notations(found)[0] == written
    assert len(found) == 2, "the second is the first"
    (first,) = found[0].terms
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
    found = start_distillers(["detkds_one_stage"], SPACE.only(["instance", "global"]), store)
    assert [[term.knowledge for term in one.terms] for one in found] == [["global", "instance"]]
    assert start_distillers(["ld"], SPACE.only(["global"]), store) == []


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
    found = start_distillers(["search:before"], SPACE, store)
    expected = ["global: catt, l1 × 2", "logits: norm_n, l2 × 5", "global: catt, l1 × 8"]
    assert notations(found) == expected


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
        start_distillers([reference], SPACE, store)


def test_a_factor_that_the_space_lacks_is_told(store):
    """A mutation would lose the factor."""
    space = SearchSpace.preset("extended")
    text = "label: identity, l1 × 5 stepwise"
    assert start_distillers([f"{text} × 2"], space, store)
    with pytest.raises(WrongUse, match="a factor of 4 for label is not in the space"):
        start_distillers([f"{text} × 4"], space, store)


def test_the_extended_space_holds_every_preset(store):
    names = [path.stem for path in distiller_file("pkd").parent.glob("*.json")]
    assert len(names) >= 12
    assert start_distillers(names, SearchSpace.preset("extended"), store)


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


# What a search makes of them

START = tuple(
    Distiller.parse(text, name)
    for name, text in {
        "none": "none",
        "one": "global: catt, l1 × 5; logits: norm_n, kl × 2",
        "two": "global: mask, l2 × 1",
        "three": "global: satt, l2 × 50; instance: identity, l1 × 1",
        "four": "global: catt, l1 × 5",
    }.items()
)


def ask_all(controller: Controller) -> list[Candidate]:
    """Every candidate, each scored by its key."""
    asked = []
    while not controller.done:
        candidate = controller.ask()
        asked.append(candidate)
        score = random.Random(candidate.distiller.key).random()
        controller.tell(candidate, Outcome(Status.COMPLETED, score=score))
    return asked


def test_the_first_stage_scores_them_as_they_are():
    settings = Search(population=4, iterations=1, weights=3)
    space = SPACE.only(["global", "logits"])
    controller = Controller(space, settings, 0, START)
    asked = ask_all(controller)
    assert [one.distiller for one in asked[: len(START)]] == list(START)
    assert {one.stage for one in asked[: len(START)]} == {"start"}
    assert all(one.stage != "start" for one in asked[len(START) :])
    assert len(asked) == controller.planned == len(START) + 2 * 6 + 3
    best = max(asked, key=lambda one: random.Random(one.distiller.key).random())
    assert controller.best[0] == best


@pytest.mark.parametrize(
    ("references", "known"), [(["none", "presets"], 2), (["presets", "none", "pkd"], 3)]
)
def test_presets_fill_at_most_half_of_a_population_unless_one_is_named(references, known):
    settings = Search(population=4, iterations=0, start=references)
    asked = ask_all(Controller(SPACE.only(["global"]), settings, 0, START))
    terms = [one.distiller.terms[0] for one in asked if one.stage == "global"]
    given = [Distiller.parse(f"global: {text}").terms[0] for text in
             ("catt, l1 × 5", "mask, l2 × 1", "satt, l2 × 50")]  # fmt: skip
    assert terms[:known] == given[:known]
    assert not set(terms[known:]) & set(given)


def test_a_rejected_start_is_not_replaced():
    settings = Search(population=1, iterations=0)
    controller = Controller(SPACE.only(["global"]), settings, 0, START[:2])
    for _ in range(2):
        candidate = controller.ask()
        controller.tell(candidate, Outcome.rejected("loss is NaN"))
    assert controller.ask().stage == "global"


def test_without_stages_they_are_the_first_candidates():
    settings = Search(divide=False, trials=9, population=2)
    controller = Controller(SPACE, settings, 0, START)
    asked = ask_all(controller)
    assert [one.distiller for one in asked[: len(START)]] == list(START)
    assert {one.stage for one in asked} == {"whole"}
    assert len(asked) == controller.planned == 9


def test_without_stages_a_search_is_as_long_as_algorithm_1():
    stages = Controller(SPACE, Search(), 0)
    whole = Controller(SPACE, Search(divide=False), 0)
    assert stages.planned == whole.planned == 5 * 100 + 40


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            Search(trials=10),
            "search.trials: 10: with stages, search.population, search.iterations and "
            "search.weights say how many candidates there are; set these, or search.divide=False",
        ),
        (
            Search(divide=False, trials=4),
            "search.trials: 4 candidates are fewer than the 5 distillers that the search starts "
            "from; give at least 5, or name fewer in search.start",
        ),
    ],
)
def test_a_number_of_trials_that_is_no_use(settings, says):
    with pytest.raises(WrongUse) as error:
        Controller(SPACE, settings, 0, START)
    assert str(error.value) == says
