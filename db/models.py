"""The tables: searches, their trials, full trainings, and adaptation costs between models."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, Enum, ForeignKey, Index, MetaData, String
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ..space import Distiller, Status
from .column_types import DistillerTerms, FreeText, Json, UtcDateTime


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of it on any database."""

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
    """One search. ``conditions`` is the hash of all that makes two trials' scores comparable."""

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


class Run:
    """What trials and full trainings record alike: how they ran and what came out."""

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


class Trial(Run, Base):
    """One scoring of one candidate.

    ``number`` is its place in the order of asking, ``told`` in the order of telling, both from 0;
    ``asked_after`` is how many outcomes had been told when it was asked for.
    """

    __tablename__ = "trials"
    __table_args__ = (
        Unique("search_id", "number"),
        Unique("search_id", "told"),
        Index(None, "conditions", "key"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    number: Mapped[int]
    asked_after: Mapped[int]
    told: Mapped[int | None]
    stage: Mapped[str]
    distiller: Mapped[Distiller]
    notation: Mapped[str]
    key: Mapped[str] = mapped_column(String(16), index=True)
    conditions: Mapped[str]
    queued: Mapped[datetime]
    reused_from: Mapped[int | None] = mapped_column(ForeignKey("trials.id"))


class Training(Run, Base):
    """One full training of a student; ``name`` says with what, for example "alone" or "found"."""

    __tablename__ = "trainings"

    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int | None] = mapped_column(ForeignKey("searches.id"), index=True)
    name: Mapped[str]
    distiller: Mapped[Distiller | None]
    conditions: Mapped[str]
    split: Mapped[str]
    checkpoint: Mapped[str | None]


class AdaptationCost(Base):
    """C(source, target) of MTPD: names for people, keys for what the two models are.

    ``data`` is the hash of the images it was measured on; ``levels`` gives [fit, held out] by
    stride.
    """

    __tablename__ = "adaptation_costs"
    __table_args__ = (Unique("data", "source_key", "target_key"),)

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
