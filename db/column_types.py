"""How Python values are kept in columns: UTC times, JSON, free text, a distiller's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import DateTime, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from ..space import SCHEMA, Distiller


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time, in UTC on both sides. Raises ValueError for a naive time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone")
        return value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:  # SQLite keeps no time zone
            return value.replace(tzinfo=timezone.utc)
        return value.astimezone(timezone.utc)


class FreeText(TypeDecorator[str]):
    """Any text, such as an error message or a path.

    What UTF-8 or PostgreSQL cannot hold (lone surrogates, the NUL character) is kept as a
    backslash escape, so that no message is too odd to be recorded.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


class Json(TypeDecorator[Mapping[str, Any]]):
    """A JSON object as text, the order of its keys kept; NaN and infinities as ``json`` has them.

    Text rather than the databases' own JSON types: those refuse NaN or reorder keys.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(dict(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> dict[str, Any] | None:
        return None if value is None else json.loads(value)


class DistillerTerms(TypeDecorator[Distiller]):
    """A distiller as the JSON text of its terms, in the form of a distiller file's ``terms``."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Distiller | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value.to_dict()["terms"])

    def process_result_value(self, value: str | None, dialect: Dialect) -> Distiller | None:
        if value is None:
            return None
        document = {"schema": SCHEMA, "terms": json.loads(value)}
        return Distiller.from_dict(document, source="a distiller in the database")
