"""Weights in shares of the detection loss's gradient: written, read, searched, and in no file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from detkds.search.controller import Controller
from detkds.settings import Search
from detkds.space import PLAIN, SHARE, Distiller, Outcome, SearchSpace, Status, Term, WrongUse
from detkds.space.files import json_schema
from detkds.space.options import SHARES
from hypothesis import given
from hypothesis import strategies as st

SPACE = SearchSpace.preset("extended")
IN_SHARES = SPACE.in_shares()

weights = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)


@st.composite
def terms(draw: st.DrawFn) -> Term:
    """Any term of the extended space, with any weight in any unit, stepwise by any factor."""
    knowledge = draw(st.sampled_from(SPACE.knowledge))
    term = SPACE.random(knowledge, Random(draw(st.integers(0, 2**32))))
    factor = draw(weights) if term.schedule == "stepwise" else None
    unit = draw(st.sampled_from([PLAIN, SHARE]))
    return replace(term, weight=draw(weights), unit=unit, factor=factor)


@given(terms())
def test_notation_and_json_come_back(term: Term) -> None:
    assert Term.parse(str(term)) == term
    distiller = Distiller((term,))
    document = json.loads(json.dumps(distiller.to_dict()))
    back = Distiller.from_dict(document)
    assert (back, back.key) == (distiller, distiller.key)
    assert ("unit" in document["terms"][0]) == (term.unit == SHARE)


@given(terms())
def test_encoding_comes_back_in_a_space_of_either_unit(term: Term) -> None:
    for space in (SPACE, IN_SHARES):
        if term.factor in (None, 2.0):
            assert space.decode(term.knowledge, space.encode(term)) == term


def test_a_share_is_another_weight() -> None:
    plain = Distiller.parse("global: identity, l2 × 0.3")
    share = Distiller.parse("global: identity, l2 × 0.3 share")
    assert str(share) == "global: identity, l2 × 0.3 share"
    assert share.in_shares
    assert not plain.in_shares
    assert share != plain
    assert share.key != plain.key
    assert plain.key == "b68caf949b521f67", "keys of plain weights are what they were"
    assert share.with_plain_weights({"global": 12.5}) == plain.with_weights({"global": 12.5})
    assert plain.with_plain_weights({"global": 12.5}) == plain
    stepwise = Term.parse("label: identity, l1 x 0.3 share stepwise x 4")
    assert (stepwise.unit, stepwise.schedule, stepwise.factor) == (SHARE, "stepwise", 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("global: identity, l2 × 0.3 shares", "unknown schedule 'shares'"),
        ("global: identity, l2 × share", "weight 'share' of"),
        ("global: identity, l2 × -1 share", "must be a finite number >= 0"),
    ],
)
def test_a_share_that_is_written_wrongly(text: str, says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        Term.parse(text)
    with pytest.raises(WrongUse, match="unknown unit 'shares' of the weight of global"):
        Term("global", (), "l2", 1, unit="shares")


def test_a_file_holds_no_shares(tmp_path: Path) -> None:
    share = Distiller.parse("global: identity, l2 × 0.3 share; logits: identity, l1 × 1")
    file = tmp_path / "found.json"
    says = r"found\.json: the weight of global is a share \(0\.3\), which a trial of a search turns"
    with pytest.raises(WrongUse, match=says):
        share.to_json(file)
    assert not file.exists()
    file.write_text(json.dumps(share.to_dict()))
    with pytest.raises(WrongUse, match=says):
        Distiller.from_json(file)
    assert "unit" not in json_schema()["$defs"]["_TermEntry"]["properties"]
    dropped = Distiller.parse("global: identity, l2 × 0 share; logits: identity, l1 × 1")
    dropped.with_plain_weights({}).to_json(file)
    assert Distiller.from_json(file).active == dropped.active


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize(
    "algorithm",
    ["algorithm1", "random", "regularized_evolution", "mcts", "thompson", "optuna:tpe"],
)
def test_every_weight_of_a_search_in_shares_is_a_share_or_a_start_terms(
    algorithm: str, divide: bool
) -> None:
    space = IN_SHARES.only(["global", "logits", "label"])
    start = [Distiller.parse("global: identity, l2 × 15; label: identity, l1 × 1")]
    allowed = {(15.0, PLAIN), (1.0, PLAIN), *((weight, SHARE) for weight in SHARES)}
    settings = Search(
        algorithm=algorithm, divide=divide, population=4, iterations=8, weights=20, early_stop=False
    )

    def seen() -> list[Distiller]:
        controller, rng, asked = Controller(space, settings, 0, start), Random(0), []
        while not controller.done:
            candidate = controller.ask()
            assert candidate is not None
            asked.append(candidate.distiller)
            plain = sum(term.unit == PLAIN for term in candidate.distiller.active)
            score = 0.1 * plain + 0.1 * rng.random()  # the start's weights do well
            controller.tell(candidate, Outcome(Status.COMPLETED, score=score))
        return asked

    distillers = seen()
    for term in (term for distiller in distillers for term in distiller.active):
        assert (term.weight, term.unit) in allowed, str(term)
    assert sum(distiller.in_shares for distiller in distillers) > 10
    assert distillers == seen(), "a replay asks for the same"


def test_a_mutated_weight_is_of_the_space() -> None:
    term, rng = Term.parse("global: identity, l2 × 1"), Random(0)
    changed = [IN_SHARES.mutate(term, rng) for _ in range(200)]
    others = {(t.weight, t.unit) for t in changed} - {(1.0, PLAIN)}
    assert others == {(weight, SHARE) for weight in SHARES}, "a share of 1 is another weight"
