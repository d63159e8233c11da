"""The search space is Table 2 and nothing else; its notation is read back without loss."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from detkds.space import Distiller, SearchSpace, Term, WrongUse
from hypothesis import given
from hypothesis import strategies as st

SPACE = SearchSpace.preset("detkds")

# Table 2 of DetKDS, and identity in every slot; softmax_c for logits is Table 5's. Table 2 prints
# scale_1 and local_1 too, which are identity.
WEIGHTS = [0.1, 0.5, 1, 2, 5, 8, 10]
FEATURES = [
    ["identity", "satt", "catt", "mask"],
    ["identity", "scale_2", "scale_4", "local_2", "local_4"],
    ["identity", "norm_hw", "norm_c", "norm_n", "min_max"],
    ["smooth_l1", "l1", "l2", "kl", "cosine", "pearson", "ssim"],
    WEIGHTS,
]
TABLE_2 = {
    "global": FEATURES,
    "fgbg": FEATURES,
    "instance": FEATURES,
    "logits": [
        ["identity", "norm_n", "norm_c", "min_max", "reshape_n", "reshape_c", "softmax_c"],
        ["smooth_l1", "l1", "l2", "kl", "cosine", "pearson", "correlation"],
        WEIGHTS,
    ],
    "localization": [
        ["identity", "softmax_n", "softmax_c", "pow2", "sigmoid"],
        ["iou", "ciou", "eiou", "giou", "diou"],
        WEIGHTS,
    ],
}

FEATURE_KINDS = ["global", "fgbg", "instance"]
ALIASES = ["scale_1", "local_1"]

# Table 5: two-stage, one-stage and anchor-free detectors.
FOUND = {
    "two-stage": """
        global: catt → scale_2 → norm_n, l1
        fgbg: catt → norm_c, smooth_l1
        instance: mask → scale_1 → norm_c, l1
        logits: softmax_c, pearson
        localization: sigmoid, ciou""",
    "one-stage": """
        global: catt → scale_2 → norm_n, l1
        fgbg: local_4 → norm_hw, l1
        instance: catt → scale_1 → norm_c, smooth_l1
        logits: norm_n, pearson
        localization: sigmoid, ciou""",
    "anchor-free": """
        global: catt → scale_2 → norm_n, l1
        fgbg: mask → scale_1 → norm_c, l1
        instance: satt → scale_4 → norm_n, l1
        logits: norm_n, l2
        localization: sigmoid, eiou""",
}

randoms = st.integers(0, 2**32).map(Random)
kinds = st.sampled_from(list(TABLE_2))


def slots_of(term: Term) -> list[str | float]:
    return [*term.applied, term.distance, term.weight]


def in_table(term: Term) -> bool:
    choices = TABLE_2[term.knowledge]
    return all(value in slot for value, slot in zip(slots_of(term), choices, strict=True))


@st.composite
def terms(draw: st.DrawFn, kind: str | None = None) -> Term:
    knowledge = kind or draw(kinds)
    values = [draw(st.sampled_from(slot)) for slot in TABLE_2[knowledge]]
    if knowledge in FEATURE_KINDS and values[1] == "identity":
        values[1] = draw(st.sampled_from(["identity", *ALIASES]))
    return Term(knowledge, tuple(values[:-2]), values[-2], values[-1])


@st.composite
def distillers(draw: st.DrawFn) -> Distiller:
    chosen = draw(st.lists(kinds, min_size=1, unique=True))
    return Distiller(tuple(draw(terms(kind)) for kind in chosen))


def test_the_space_is_table_2_with_identity_in_every_slot() -> None:
    assert set(SPACE.knowledge) == set(TABLE_2)
    for knowledge, slots in TABLE_2.items():
        assert [set(slot) for slot in SPACE.slots(knowledge)] == [set(slot) for slot in slots]
        assert all("identity" in slot for slot in SPACE.slots(knowledge)[:-2])
        assert all(len(set(slot)) == len(slot) for slot in SPACE.slots(knowledge))


def test_the_size_is_that_of_an_enumeration() -> None:
    every = {
        (knowledge, *values) for knowledge, slots in TABLE_2.items() for values in product(*slots)
    }
    assert len(SPACE) == len(every) == 14_700 + 7 * 7 * 7 + 5 * 5 * 7
    assert len(SPACE.only(FEATURE_KINDS)) == 3 * 4 * 5 * 5 * 7 * 7 == 14_700
    assert len(SPACE.only(["logits"])) == 343


@given(kinds, randoms)
def test_a_random_term_is_in_the_space(knowledge: str, rng: Random) -> None:
    term = SPACE.random(knowledge, rng)
    assert term.knowledge == knowledge
    assert in_table(term)


def test_random_terms_reach_every_choice() -> None:
    rng = Random(0)
    for knowledge, choices in TABLE_2.items():
        drawn = [slots_of(SPACE.random(knowledge, rng)) for _ in range(300)]
        assert [set(slot) for slot in zip(*drawn, strict=True)] == [set(slot) for slot in choices]


@given(terms(), randoms)
def test_a_mutation_changes_exactly_one_slot_and_stays_in_the_space(
    term: Term, rng: Random
) -> None:
    mutant = SPACE.mutate(term, rng)
    assert in_table(mutant)
    assert mutant.knowledge == term.knowledge
    pairs = zip(slots_of(term), slots_of(mutant), strict=True)
    assert sum(before != after for before, after in pairs) == 1


@pytest.mark.parametrize("knowledge", TABLE_2)
def test_mutations_reach_every_slot(knowledge: str) -> None:
    rng = Random(0)
    term = SPACE.random(knowledge, rng)
    mutants = [slots_of(SPACE.mutate(term, rng)) for _ in range(100)]
    for before, after in zip(slots_of(term), zip(*mutants, strict=True), strict=True):
        assert set(after) > {before}


@given(kinds.flatmap(lambda kind: st.tuples(terms(kind), terms(kind))), randoms)
def test_a_crossover_takes_every_slot_from_a_parent(
    parents: tuple[Term, Term], rng: Random
) -> None:
    child = SPACE.crossover(*parents, rng)
    assert child.knowledge == parents[0].knowledge
    slots = zip(slots_of(child), *map(slots_of, parents), strict=True)
    assert all(value in (first, second) for value, first, second in slots)


@given(distillers(), distillers(), randoms)
def test_the_weights_stage_keeps_the_forms_and_never_drops_all(
    first: Distiller, other: Distiller, rng: Random
) -> None:
    forms = [(t.knowledge, t.transforms, t.distance) for t in first.terms]
    second = SPACE.random_weights(first, rng)
    mutant = SPACE.mutate_weights(second, rng)
    child = SPACE.crossover_weights(second, mutant, rng)
    for changed in (second, mutant, child):
        assert [(t.knowledge, t.transforms, t.distance) for t in changed.terms] == forms
        assert all(t.weight in (0, *WEIGHTS) for t in changed.terms)
        assert changed.active
    pairs = list(zip(second.terms, mutant.terms, strict=True))
    assert sum(a != b for a, b in pairs) == 1
    weights = zip(child.terms, pairs, strict=True)
    assert all(term in parents for term, parents in weights)


def test_random_distillers_have_few_terms_more_often_than_many() -> None:
    rng = Random(0)
    drawn = [SPACE.random_distiller(rng) for _ in range(2000)]
    assert all(in_table(term) for one in drawn for term in one.terms)
    counts = [sum(len(one.terms) == count for one in drawn) for count in range(6)]
    assert counts[0] == 0
    assert counts[1] > counts[2] > counts[3] > counts[4] > 0 < counts[5]


@given(distillers(), distillers(), randoms)
def test_a_mutated_distiller_has_one_change(
    distiller: Distiller, other: Distiller, rng: Random
) -> None:
    before = {t.knowledge: slots_of(t) for t in distiller.active}
    mutant = SPACE.mutate_distiller(distiller, rng, other.active)
    after = {t.knowledge: slots_of(t) for t in mutant.active}
    assert mutant.active == mutant.terms != ()
    assert all(in_table(term) for term in mutant.terms)
    kept = before.keys() & after.keys()
    changed = sum(a != b for k in kept for a, b in zip(before[k], after[k], strict=True))
    assert changed + len(before.keys() ^ after.keys()) == 1
    for knowledge in kept:
        places = [sorted(WEIGHTS).index(slots[knowledge][-1]) for slots in (before, after)]
        assert abs(places[0] - places[1]) <= 1, "a weight changes by a step"


def test_a_term_more_may_be_a_known_one() -> None:
    rng = Random(0)
    known = Term("global", ("catt",), "l1", 3.3)
    alone = SPACE.only(["global"])
    mutants = [alone.mutate_distiller(Distiller(()), rng, (known,)) for _ in range(200)]
    assert 60 < sum(one.terms == (known,) for one in mutants) < 140


def test_a_weight_that_is_not_in_the_space_steps_into_it() -> None:
    steps = {SPACE.step_weight(Term("global", (), "l1", w), Random(s)).weight
             for w in (3.0, 50.0, 0.01) for s in range(20)}  # fmt: skip
    assert steps == {2.0, 5.0, 10.0, 0.1}


@given(distillers(), distillers(), randoms)
def test_a_child_has_the_terms_of_its_parents_and_mostly_all(
    first: Distiller, second: Distiller, rng: Random
) -> None:
    kinds = {t.knowledge for one in (first, second) for t in one.active}
    children = [SPACE.crossover_distillers(first, second, rng) for _ in range(20)]
    for child in children:
        assert {*child.terms} <= {*first.active, *second.active}
        assert child.active or not kinds
    assert sum({t.knowledge for t in one.terms} == kinds for one in children) > 5


@given(terms())
def test_encoding_comes_back(term: Term) -> None:
    assert SPACE.decode(term.knowledge, SPACE.encode(term)) == term


@given(distillers(), st.sampled_from([("→", "×"), ("->", "x"), ("->", "*"), (" ->", " x  ")]))
def test_arrow_notation_comes_back(distiller: Distiller, signs: tuple[str, str]) -> None:
    text = str(distiller).replace("→", signs[0]).replace("×", signs[1])
    assert Distiller.parse(text) == distiller
    assert Distiller.parse(text.replace("\n", ";")) == distiller


@given(terms(), st.floats(0, allow_infinity=False, allow_nan=False))
def test_any_weight_survives_the_notation(term: Term, weight: float) -> None:
    changed = Term(term.knowledge, term.transforms, term.distance, weight)
    assert Term.parse(str(changed)) == changed


@given(st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_any_factor_survives_the_notation(factor: float) -> None:
    term = Term("label", (), "l1", 5, "stepwise", factor)
    assert Term.parse(str(term)) == term
    assert Term.parse("label: identity, l1 × 5 stepwise").factor == 2


def test_a_term_prints_as_the_papers_write_it() -> None:
    term = Term("global", ("catt", "scale_2", "norm_n"), "l1", 5)
    assert str(term) == "global: catt → scale_2 → norm_n, l1 × 5"
    assert str(Term("fgbg", (), "l2", 0.5)) == "fgbg: identity, l2 × 0.5"
    assert Term.parse("fgbg: local_4 -> norm_hw, l1").transforms == (
        "identity",
        "local_4",
        "norm_hw",
    )
    assert Term.parse("fgbg: local_4 -> norm_hw, l1").weight == 1


@pytest.mark.parametrize("family", FOUND)
def test_the_found_distillers_of_table_5_are_in_the_space(family: str) -> None:
    distiller = Distiller.parse(FOUND[family])
    assert [t.knowledge for t in distiller.terms] == list(TABLE_2)
    assert all(in_table(term) for term in distiller.terms)
    assert Distiller.parse(str(distiller)) == distiller


@given(distillers(), randoms)
def test_the_key_does_not_see_order_name_provenance_and_dropped_terms(
    distiller: Distiller, rng: Random
) -> None:
    shuffled = rng.sample(distiller.terms, len(distiller.terms))
    same = Distiller(tuple(shuffled), name="another", provenance={"trial": 3})
    assert same == distiller
    assert same.key == distiller.key
    unused = [kind for kind in TABLE_2 if kind not in {t.knowledge for t in distiller.terms}]
    dropped = [Term(kind, (), TABLE_2[kind][-2][0], 0) for kind in unused]
    assert Distiller((*distiller.terms, *dropped)).key == distiller.key


@given(distillers(), randoms)
def test_the_key_sees_every_slot(distiller: Distiller, rng: Random) -> None:
    term = rng.choice(distiller.terms)
    others = [other for other in distiller.terms if other is not term]
    assert Distiller((*others, SPACE.mutate(term, rng))).key != distiller.key


def test_the_key_is_the_same_on_any_machine() -> None:
    """Stores hold the hash: changing it would change every stored search."""
    assert Distiller.parse(FOUND["one-stage"]).key == "946039cd72df4699"


def test_no_two_terms_share_a_key() -> None:
    for knowledge, slots in SPACE.only(["logits", "localization"]).to_dict().items():
        every = product(*slots["transforms"], slots["distances"], slots["weights"])
        keys = {Distiller((SPACE.decode(knowledge, list(values)),)).key for values in every}
        assert len(keys) == len(SPACE.only([knowledge]))


@pytest.mark.parametrize("alias", ALIASES)
@given(st.sampled_from(FEATURE_KINDS).flatmap(terms), randoms)
def test_an_alias_is_written_and_shown_and_is_the_same_candidate(
    alias: str, term: Term, rng: Random
) -> None:
    attention, _, normalise = term.applied
    plain, aliased = (
        Term(term.knowledge, (attention, scale, normalise), term.distance, term.weight)
        for scale in ("identity", alias)
    )
    assert alias in str(aliased)
    assert Term.parse(str(aliased)).transforms == aliased.transforms
    assert Distiller.from_dict(Distiller((aliased,)).to_dict()).terms[0].transforms[1] == alias
    assert aliased == plain
    assert hash(aliased) == hash(plain)
    assert Distiller((aliased,)).key == Distiller((plain,)).key
    assert SPACE.encode(aliased) == SPACE.encode(plain)
    assert SPACE.mutate(aliased, rng) != plain


WRONG = {
    "knowledge": ("globl: identity, l1", "unknown knowledge 'globl': did you mean global?"),
    "transform": ("global: scale_3, l1", "unknown transform 'scale_3' for global: did you mean"),
    "other's transform": ("logits: catt, l1", "unknown transform 'catt' for logits"),
    "order": ("global: norm_n → catt, l1", "out of order at 'catt'"),
    "too many": ("global: catt → scale_1 → norm_n → min_max, l1", "out of order at 'min_max'"),
    "distance": ("global: catt, pearsen", "did you mean pearson?"),
    "other's distance": ("global: catt, giou", "unknown distance 'giou' for global"),
    "weight": ("global: catt, l1 × many", "weight 'many'"),
    "negative": ("global: catt, l1 × -1", "weight of global is -1.0"),
    "not finite": ("global: catt, l1 × inf", "it must be a finite number >= 0"),
    "factor": ("label: identity, l1 × 5 stepwise × many", "factor 'many'"),
    "no factor": ("label: identity, l1 × 5 stepwise × 0", "factor of label is 0.0: it must be"),
    "infinite factor": ("label: identity, l1 × 5 stepwise × inf", "a finite number > 0"),
    "factor of a constant": (
        "label: identity, l1 × 5 constant × 2",
        "factor of label is 2.0: its weight is constant; leave the factor out",
    ),
    "no distance": ("global: catt", "write it as 'global: catt → scale_2 → norm_n, l1 × 5'"),
    "twice": ("global: catt, l1; global: satt, l2", "'global' stands in two terms"),
    "nothing": ("\n;\n", "at least one term; write none for no term"),
    "none and a term": ("none; global: catt, l1", "can't read the term 'none'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_distiller_is_told_what_would_be_right(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(WrongUse) as caught:
        Distiller.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_preset_or_kind_is_told_the_nearest() -> None:
    with pytest.raises(WrongUse, match="did you mean detkds"):
        SearchSpace.preset("detkd")
    with pytest.raises(WrongUse, match="did you mean localization"):
        SPACE.only(["localisation"])
