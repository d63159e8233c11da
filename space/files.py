"""The distiller file: versioned JSON, validated, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import WrongUse
from .options import CONSTANT, EXTENDED, PLAIN, SHARE, STEPWISE
from .writing import read_json, replace_file

SCHEMA = "detkds/distiller/1"


class _TermEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    knowledge: str = Field(json_schema_extra={"enum": list(EXTENDED)})
    transforms: list[str] = Field(default=[], max_length=3)
    distance: str
    weight: float = Field(ge=0, allow_inf_nan=False)
    schedule: str = Field(default=CONSTANT, json_schema_extra={"enum": [CONSTANT, STEPWISE]})
    #: Of a ``stepwise`` weight. Files without a factor, and all older files, mean the usual factor.
    factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class _Document(BaseModel):
    """A detkds distiller: a weighted sum of distillation terms."""

    model_config = ConfigDict(extra="forbid", strict=True)
    schema_: Literal["detkds/distiller/1"] = Field(alias="schema")
    name: str | None = None
    #: Without terms, the student trains alone.
    terms: list[_TermEntry]
    provenance: dict[str, Any] | None = None


class _StoredTerm(_TermEntry):
    """A term as databases and workers exchange terms: its weight may be a share."""

    unit: Literal[PLAIN, SHARE] = PLAIN  # type: ignore[valid-type]


class _Stored(_Document):
    terms: list[_StoredTerm]  # type: ignore[assignment]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a distiller file. ``python -m detkds.space.files`` prints the schema."""
    schema = _Document.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **schema}


def validated(document: Any, source: str) -> dict[str, Any]:
    """The document, if it fits the schema; a weight may be a share. Errors name ``source``."""
    if not isinstance(document, Mapping):
        raise WrongUse(f"{source}: a distiller is a JSON object, not {type(document).__name__}")
    version = document.get("schema")
    if version != SCHEMA:
        raise WrongUse(f"{source}: schema is {version!r}, this version of detkds reads '{SCHEMA}'")
    try:
        return _Stored.model_validate(dict(document)).model_dump(by_alias=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = first.get("input")
        shown = "" if first["type"] == "missing" else f" (found {got!r:.40})"
        raise WrongUse(f"{source}: {where}: {first['msg']}{shown}") from None


def read(path: str | os.PathLike[str]) -> Any:
    """The JSON of a file. Raises :class:`WrongUse` naming the file if it can't be read."""
    return read_json(path, "the distiller file", "export the distiller again with `detkds export`")


def write(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a document; the file appears whole or not at all."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    replace_file(path, text + "\n")


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
