"""The distiller file: written whole or not at all, and refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from detkds.configs import distiller_file
from detkds.space import KNOWLEDGE, SCHEMA, Distiller, Term, WrongUse, json_schema
from hypothesis import given
from test_space import FOUND, distillers

SHIPPED = sorted(distiller_file("pkd").parent.glob("*.json"))


def document(**changes: Any) -> dict[str, Any]:
    return {**Distiller.parse(FOUND["one-stage"]).to_dict(), **changes}


def term(**changes: Any) -> dict[str, Any]:
    plain = {"knowledge": "global", "transforms": ["catt"], "distance": "l1", "weight": 5.0}
    return document(terms=[{**plain, **changes}])


@given(distillers())
def test_a_dictionary_comes_back(distiller: Distiller) -> None:
    content = distiller.to_dict()
    jsonschema.validate(content, json_schema())
    assert Distiller.from_dict(json.loads(json.dumps(content))) == distiller


@pytest.mark.parametrize("family", FOUND)
def test_a_file_comes_back(tmp_path: Path, family: str) -> None:
    provenance = {"search": "größte", "trial": 131, "proxy": {"ap": 0.31}}
    distiller = Distiller(Distiller.parse(FOUND[family]).terms, family, provenance)
    distiller.to_json(tmp_path / "found.json")
    again = Distiller.from_json(tmp_path / "found.json")
    assert again == distiller
    assert (again.key, again.name, again.provenance) == (distiller.key, family, provenance)
    content = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert content["schema"] == SCHEMA
    jsonschema.validate(content, json_schema())


def test_any_weight_survives_a_file(tmp_path: Path) -> None:
    odd = Distiller((Term("global", (), "l1", 0.1 + 0.2), Term("logits", (), "kl", 0)))
    odd.to_json(tmp_path / "odd.json")
    assert Distiller.from_json(tmp_path / "odd.json") == odd


def test_a_factor_stands_in_the_file_unless_it_is_the_usual_factor(tmp_path: Path) -> None:
    """Files that earlier versions wrote have no factor, and mean 2."""
    usual, fourfold = (Distiller((Term("label", (), "l1", 5, "stepwise", f),)) for f in (2, 4))
    for distiller, factor in ((usual, {}), (fourfold, {"factor": 4.0})):
        distiller.to_json(tmp_path / "stepwise.json")
        content = json.loads((tmp_path / "stepwise.json").read_text("utf-8"))
        jsonschema.validate(content, json_schema())
        (written,) = content["terms"]
        assert {key: value for key, value in written.items() if key == "factor"} == factor
        assert Distiller.from_json(tmp_path / "stepwise.json") == distiller


def test_the_student_alone_is_a_distiller_without_terms(tmp_path: Path) -> None:
    alone = Distiller.parse(" none\n", name="alone")
    assert (alone, str(alone), alone.needs_teacher) == (Distiller(()), "none", False)
    alone.to_json(tmp_path / "alone.json")
    content = json.loads((tmp_path / "alone.json").read_text("utf-8"))
    assert content["terms"] == []
    jsonschema.validate(content, json_schema())
    assert Distiller.from_json(tmp_path / "alone.json") == alone
    assert alone.key == Distiller.parse("global: catt, l1 × 0; logits: norm_n, kl × 0").key


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_distillers_load(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text("utf-8")), json_schema())
    assert Distiller.from_json(path).name == path.stem
    assert distiller_file(path.stem) == path


def test_the_schema_is_valid_and_names_every_kind_of_knowledge() -> None:
    terms = json_schema()["$defs"]["_TermEntry"]["properties"]
    assert terms["knowledge"]["enum"] == list(KNOWLEDGE)
    jsonschema.Draft202012Validator.check_schema(json_schema())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another version": (document(schema="detkds/distiller/2"), "'detkds/distiller/1'"),
    "no version": ({"terms": term()["terms"]}, "schema is None"),
    "weight as text": (term(weight="5"), "terms.0.weight"),
    "weight as truth": (term(weight=True), "terms.0.weight"),
    "no weight": (document(terms=[{"knowledge": "global", "distance": "l1"}]), "terms.0.weight"),
    "negative weight": (term(weight=-1), "terms.0.weight"),
    "no factor": (term(schedule="stepwise", factor=0), "terms.0.factor"),
    "factor as text": (term(schedule="stepwise", factor="2"), "terms.0.factor"),
    "unknown knowledge": (term(knowledge="globl"), "did you mean global?"),
    "extra key": (document(comment="x"), "comment"),
    "extra key in a term": (term(wieght=1), "terms.0.wieght"),
    "no list of terms": (document(terms=None), "terms"),
    "four transforms": (term(transforms=["catt"] * 4), "terms.0.transforms"),
    "name as number": (document(name=5), "name"),
}
#: Faults that JSON Schema can't express, or JSON can't hold; the reader refuses them too.
WRONG_FOR_THE_READER: dict[str, tuple[dict[str, Any], str]] = {
    "weight not a number": (term(weight=float("nan")), "terms.0.weight"),
    "infinite weight": (term(weight=float("inf")), "terms.0.weight"),
    "factor of a constant": (term(factor=4.0), "leave the factor out"),
    "unknown transform": (term(transforms=["cat"]), "did you mean catt?"),
    "unknown distance": (term(distance="pearsen"), "did you mean pearson?"),
    "knowledge twice": (document(terms=term()["terms"] * 2), "'global' stands in two terms"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_schema_refuses_what_the_reader_refuses(case: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(WRONG[case][0], json_schema())


@pytest.mark.parametrize("case", [*WRONG, *WRONG_FOR_THE_READER])
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, case: str) -> None:
    content, message = {**WRONG, **WRONG_FOR_THE_READER}[case]
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(WrongUse) as caught:
        Distiller.from_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    whole = json.dumps(document(), ensure_ascii=False).encode()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(WrongUse, match=r"cut\.json: not a whole JSON document"):
            Distiller.from_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "a distiller is a JSON object, not list"),
        (b"5", "a distiller is a JSON object, not int"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "can't read the distiller file: No such file"),
    ],
)
def test_what_is_no_distiller_file_is_refused_by_name(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WrongUse, match=message) as caught:
        Distiller.from_json(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("provenance", [{"ap": float("nan")}, {"path": Path("x")}])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, provenance: dict[str, Any]
) -> None:
    target = tmp_path / "found.json"
    good = Distiller.parse(FOUND["one-stage"])
    good.to_json(target)
    with pytest.raises((ValueError, TypeError)):
        Distiller(good.terms, provenance=provenance).to_json(target)
    assert Distiller.from_json(target) == good
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_over_a_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        Distiller.parse(FOUND["one-stage"]).to_json(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_written_file_may_be_read_by_others(tmp_path: Path) -> None:
    Distiller.parse(FOUND["one-stage"]).to_json(tmp_path / "found.json")
    assert (tmp_path / "found.json").stat().st_mode & 0o777 == 0o644


def test_an_unknown_shipped_name_is_told_the_nearest() -> None:
    with pytest.raises(WrongUse, match="did you mean pkd"):
        distiller_file("pdk")
