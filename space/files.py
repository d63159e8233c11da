"""The distiller file: versioned JSON, validated, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import WrongUse
from .options import CONSTANT, EXTENDED, STEPWISE

SCHEMA = "detkds/distiller/1"


class _TermEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    knowledge: str = Field(json_schema_extra={"enum": list(EXTENDED)})
    transforms: list[str] = Field(default=[], max_length=3)
    distance: str
    weight: float = Field(ge=0, allow_inf_nan=False)
    schedule: str = Field(default=CONSTANT, json_schema_extra={"enum": [CONSTANT, STEPWISE]})


class _Document(BaseModel):
    """A detkds distiller: a weighted sum of distillation terms."""

    model_config = ConfigDict(extra="forbid", strict=True)
    schema_: Literal["detkds/distiller/1"] = Field(alias="schema")
    name: str | None = None
    terms: list[_TermEntry] = Field(min_length=1)
    provenance: dict[str, Any] | None = None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a distiller file. ``python -m detkds.space.files`` prints the schema."""
    schema = _Document.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **schema}


def validated(document: Any, source: str) -> dict[str, Any]:
    """The document, if it fits the schema. Errors name ``source``."""
    if not isinstance(document, Mapping):
        raise WrongUse(f"{source}: a distiller is a JSON object, not {type(document).__name__}")
    version = document.get("schema")
    if version != SCHEMA:
        raise WrongUse(f"{source}: schema is {version!r}, this version of detkds reads '{SCHEMA}'")
    try:
        return _Document.model_validate(dict(document)).model_dump(by_alias=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = first.get("input")
        shown = "" if first["type"] == "missing" else f" (found {got!r:.40})"
        raise WrongUse(f"{source}: {where}: {first['msg']}{shown}") from None


def read(path: str | os.PathLike[str]) -> Any:
    """The JSON of a file. Raises :class:`WrongUse` naming it if it can't be read."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise WrongUse(f"{path}: can't read the distiller file: {reason}") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise WrongUse(
            f"{path}: not a whole JSON document (line {error.lineno}: {error.msg}); "
            "export the distiller again with `detkds export`"
        ) from None
    except RecursionError:
        raise WrongUse(f"{path}: nested too deep to be a distiller file") from None


def write(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a document; the file appears whole or not at all."""
    target = Path(path)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
