"""The tables (searches, leases, trials, trainings, adaptation costs) and their column types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from ..space import SCHEMA, Distiller, Outcome, Status
from .rows import FINISHED


def now() -> datetime:
    """The time in UTC: the only times that the tables hold."""
    return datetime.now(timezone.utc)


# Column types


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its time zone, stored and read as UTC. Raises ValueError for a naive time."""

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
        if value.tzinfo is None:  # SQLite stores no time zone
            return value.replace(tzinfo=timezone.utc)
        return value.astimezone(timezone.utc)


class FreeText(TypeDecorator[str]):
    """Any text, such as an error message or a path.

    Lone surrogates and the NUL character, which UTF-8 or PostgreSQL cannot hold, are stored as
    backslash escapes: every error message can be stored.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


class Json(TypeDecorator[Mapping[str, Any]]):
    """A JSON object as text. Keys keep their order; NaN and infinities are written as by ``json``.

    The databases' own JSON types refuse NaN or reorder keys.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(dict(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> dict[str, Any] | None:
        return None if value is None else json.loads(value)


class DistillerTerms(TypeDecorator[Distiller]):
    """A distiller as JSON text: the ``terms`` of its distiller file."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Distiller | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value.to_dict()["terms"])

    def process_result_value(self, value: str | None, dialect: Dialect) -> Distiller | None:
        if value is None:
            return None
        document = {"schema": SCHEMA, "terms": json.loads(value)}
        return Distiller.from_dict(document, source="a distiller in the database")


# Tables


class Base(DeclarativeBase):
    """Gives every constraint a name, so that a revision can change it on any database."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - the declarative base types this attribute itself
        str: FreeText,
        float: Double,
        datetime: UtcDateTime,
        dict[str, Any]: Json,
        dict[str, float]: Json,
        Distiller: DistillerTerms,
        Status: Enum(
            Status,
            native_enum=False,
            length=16,
            values_callable=lambda statuses: [status.value for status in statuses],
        ),
    }


class Search(Base):
    """A search. Scores are comparable between trials of equal ``conditions``, which is a hash.

    ``confirmation`` says which trial is exported and why, once the best trials are confirmed.
    ``holder`` is the user and the host that the search was started by and on.
    """

    __tablename__ = "searches"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    config: Mapped[dict[str, Any]]
    conditions: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[str]
    created: Mapped[datetime]
    finished: Mapped[datetime | None]
    host: Mapped[str]
    confirmation: Mapped[dict[str, Any] | None]
    holder: Mapped[str | None]


class Lease(Base):
    """Which driver runs the search of a name, by its ``token``; see :mod:`detkds.db.lease`.

    ``heartbeat`` is the driver's last sign of life, or None when it has ended. ``process_key``
    tells ``process`` from others of the same number. ``doing`` is what the driver said at its last
    heartbeat of what runs now, as JSON; see :func:`detkds.db.runners.doing_now`.
    """

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(16))
    holder: Mapped[str]
    host: Mapped[str]
    process: Mapped[int]
    process_key: Mapped[str | None]
    since: Mapped[datetime]
    heartbeat: Mapped[datetime | None]
    doing: Mapped[dict[str, Any] | None]


class Run:
    """The columns that trials and trainings share: where a run worked and what came out.

    ``holder`` is the user and the host of the driver that wrote the row last.
    """

    status: Mapped[Status]
    score: Mapped[float | None]
    metrics: Mapped[dict[str, float]] = mapped_column(default=dict)
    reason: Mapped[str | None]
    error: Mapped[str | None]
    seed: Mapped[int] = mapped_column(BigInteger)
    host: Mapped[str | None]
    device: Mapped[str | None]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    seconds: Mapped[float | None]
    holder: Mapped[str | None]

    def finish(self, outcome: Outcome) -> None:
        """Copy an outcome into the row. Raises ValueError for the states queued and running.

        A score that is NaN or infinite makes the row failed.
        """
        if outcome.status not in FINISHED:
            status = outcome.status.value
            raise ValueError(f"an outcome is completed, stopped, rejected or failed, not {status}")
        outcome = outcome.checked()
        self.status, self.seconds = outcome.status, outcome.seconds
        # Scores may be NumPy numbers: JSON refuses them, and SQLite would store their bytes.
        self.score = None if outcome.score is None else float(outcome.score)
        self.metrics = {name: float(value) for name, value in outcome.metrics.items()}
        self.reason, self.error = outcome.reason, outcome.error
        self.host, self.device = outcome.host or self.host, outcome.device or self.device
        self.finished = now()


class Trial(Run, Base):
    """One scoring of one candidate.

    ``number`` counts the trials of a search in the order in which they were asked for, and
    ``tell_order`` counts its outcomes in the order in which they were told, both from 0.
    ``asked_after`` is the number of outcomes that had been told when the trial was asked for.
    ``early_score`` is the AP halfway through the training, on a part of the images.
    """

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("search_id", "number"),
        UniqueConstraint("search_id", "tell_order"),
        Index(None, "conditions", "key"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    number: Mapped[int]
    asked_after: Mapped[int]
    tell_order: Mapped[int | None]
    stage: Mapped[str]
    distiller: Mapped[Distiller]
    notation: Mapped[str]
    key: Mapped[str] = mapped_column(String(16), index=True)
    conditions: Mapped[str]
    queued: Mapped[datetime]
    early_score: Mapped[float | None]
    reused_from: Mapped[int | None] = mapped_column(ForeignKey("trials.id"))

    def finish(self, outcome: Outcome) -> None:
        """As :meth:`Run.finish`, and the early score."""
        super().finish(outcome)
        early = outcome.checked().early_score
        self.early_score = None if early is None else float(early)


class Training(Run, Base):
    """One full training of a student. ``name`` names its distiller, for example "found"."""

    __tablename__ = "trainings"

    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int | None] = mapped_column(ForeignKey("searches.id"), index=True)
    name: Mapped[str]
    distiller: Mapped[Distiller | None]
    conditions: Mapped[str]
    split: Mapped[str]
    checkpoint: Mapped[str | None]


class AdaptationCost(Base):
    """MTPD's adaptation cost C(source, target) between two models.

    ``source`` and ``target`` are the models' names; ``source_key`` and ``target_key`` identify the
    models. ``data`` is the hash of the images that the cost was measured on. ``levels`` gives
    [cost on the fitted images, cost on the held-out images] by stride.
    """

    __tablename__ = "adaptation_costs"
    __table_args__ = (UniqueConstraint("data", "source_key", "target_key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[str] = mapped_column(String(16))
    source: Mapped[str]
    source_key: Mapped[str] = mapped_column(String(16))
    target: Mapped[str]
    target_key: Mapped[str] = mapped_column(String(16))
    cost: Mapped[float]
    fit: Mapped[float]
    levels: Mapped[dict[str, Any]]
    images: Mapped[int]
    created: Mapped[datetime]


Model = TypeVar("Model", bound=Base)


def find(session: Session, model: type[Model], row_id: int) -> Model:
    """The row of this id. Raises LookupError when the table has no such row."""
    found = session.get(model, row_id)
    if found is None:
        raise LookupError(f"the store holds no row {row_id} in {model.__tablename__}")
    return found
