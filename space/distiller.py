"""Terms and distillers: what is searched for, printed, compared and exported."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import files
from .errors import WrongUse, nearest
from .options import ALIASES, CONSTANT, EXTENDED, IDENTITY, PLAIN, SHARE, STEP, STEPWISE

#: The distiller without terms, in arrow notation.
NONE = "none"


@dataclass(frozen=True)
class Term:
    """One knowledge with its transforms, distance and weight (DetKDS formulas 2 and 3).

    Feature knowledge takes three transforms in a row, attention → scale → normalise; a transform
    that is left out is ``identity``. Other knowledge has one slot: a transform of responses,
    CrossKD's layer, MGD's mask. A ``stepwise`` weight is multiplied once by ``factor``, at the
    first milestone of the learning rate; the factor is 2 if none is given. The ``unit`` of the
    weight is ``plain`` or ``share``: a trial turns a share into the plain weight under which the
    term's gradient in the student's maps is this share of the detection loss's (see
    ``workers.stored_batch``), and nothing else trains with shares. Raises :class:`WrongUse` for a
    name that the space does not hold, with the nearest right name, for a weight that is not a
    finite number ≥ 0, and for a factor that is not a finite number > 0 or stands beside a constant
    weight.

    ``transforms`` are shown as they are written; ``applied`` names the same transforms as the space
    does, without aliases (``scale_1`` is ``identity``). Terms that apply the same are equal.
    """

    knowledge: str
    transforms: tuple[str, ...] = field(compare=False)
    distance: str
    weight: float = 1.0
    schedule: str = CONSTANT
    factor: float | None = None
    unit: str = PLAIN
    applied: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        options = EXTENDED.get(self.knowledge)
        if options is None:
            raise WrongUse(
                f"unknown knowledge '{self.knowledge}': {nearest(self.knowledge, EXTENDED)}"
            )
        object.__setattr__(self, "transforms", _fill_slots(self.knowledge, self.transforms))
        pairs = zip(self.transforms, options.transforms, strict=True)
        applied = tuple(ALIASES.get(slot, {}).get(name, name) for name, slot in pairs)
        object.__setattr__(self, "applied", applied)
        if self.distance not in options.distances:
            raise WrongUse(
                f"unknown distance '{self.distance}' for {self.knowledge}: "
                + nearest(self.distance, options.distances)
            )
        if not _finite(self.weight) or self.weight < 0:
            raise WrongUse(
                f"weight of {self.knowledge} is {self.weight!r}: it must be a finite number >= 0"
            )
        object.__setattr__(self, "weight", float(self.weight))
        if self.unit not in (PLAIN, SHARE):
            raise WrongUse(
                f"unknown unit '{self.unit}' of the weight of {self.knowledge}: "
                + nearest(self.unit, (PLAIN, SHARE))
            )
        if self.schedule not in options.schedules:
            raise WrongUse(
                f"unknown schedule '{self.schedule}' for {self.knowledge}: "
                + nearest(self.schedule, options.schedules)
            )
        self._check_factor()

    def _check_factor(self) -> None:
        """Fill in the factor of a ``stepwise`` weight."""
        if self.schedule != STEPWISE:
            if self.factor is not None:
                raise WrongUse(
                    f"factor of {self.knowledge} is {self.factor!r}: its weight is constant; leave "
                    "the factor out, or make the weight stepwise"
                )
            return
        factor = STEP if self.factor is None else self.factor
        if not _finite(factor) or factor <= 0:
            raise WrongUse(
                f"factor of {self.knowledge} is {factor!r}: it must be a finite number > 0"
            )
        object.__setattr__(self, "factor", float(factor))

    @property
    def _change(self) -> dict[str, str | float]:
        """How the weight changes, as a distiller file says it; what is usual is left out."""
        if self.factor is None:
            return {}
        factor = {} if self.factor == STEP else {"factor": self.factor}
        return {"schedule": self.schedule, **factor}

    @property
    def _written_unit(self) -> list[str]:
        """The unit of the weight, where it has to be said."""
        return [] if self.unit == PLAIN else [self.unit]

    def __str__(self) -> str:
        """The papers' arrow notation: ``global: catt → scale_2 → norm_n, l1 × 5``."""
        named = [name for name in self.transforms if name != IDENTITY] or [IDENTITY]
        change = " × ".join(map(_digits, self._change.values()))
        weight = " ".join([_digits(self.weight), *self._written_unit, change]).rstrip()
        return f"{self.knowledge}: {' → '.join(named)}, {self.distance} × {weight}"

    @classmethod
    def parse(cls, text: str) -> Term:
        """Read a term in arrow notation; ``->`` and ``x`` or ``*`` may stand for → and ×.

        A unit follows its weight, and a factor its schedule: ``label: identity, jensen_shannon ×
        0.3 share stepwise × 4``.
        """
        match = re.fullmatch(
            r"\s*(\w+)\s*:\s*(.+?)\s*,\s*(\w+)\s*"
            rf"(?:[×x*]\s*(\S+)(?:\s+({SHARE})\b)?\s*(?:\s([a-z]+)\s*(?:[×x*]\s*(\S+)\s*)?)?)?",
            text,
            re.DOTALL,
        )
        if not match:
            raise WrongUse(
                f"can't read the term '{text.strip()}': write it as "
                "'global: catt → scale_2 → norm_n, l1 × 5'"
            )
        knowledge, transforms, distance, weight, unit, schedule, factor = match.groups()
        names = tuple(name.strip() for name in re.split(r"→|->", transforms))
        number = _number("weight", weight or "1", text)
        step = None if factor is None else _number("factor", factor, text)
        return cls(knowledge, names, distance, number, schedule or CONSTANT, step, unit or PLAIN)


def _finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _number(what: str, written: str, term: str) -> float:
    """The weight or the factor of a term in arrow notation."""
    try:
        return float(written)
    except ValueError:
        raise WrongUse(f"{what} '{written}' of '{term.strip()}' is not a number") from None


def _digits(value: str | float) -> str:
    """A number with every digit, since :meth:`Term.parse` reads the text; a name as it is."""
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


def _fill_slots(knowledge: str, names: Iterable[str]) -> tuple[str, ...]:
    """A name for each slot, in the order of the slots; a slot without a name is ``identity``."""
    slots = [(*slot, *ALIASES.get(slot, {})) for slot in EXTENDED[knowledge].transforms]
    given = tuple(names)
    if len(given) == len(slots) and all(n in s for n, s in zip(given, slots, strict=True)):
        return given
    filled: list[str] = []
    known = list(dict.fromkeys(name for slot in slots for name in slot))
    for name in given:
        if name not in known:
            raise WrongUse(f"unknown transform '{name}' for {knowledge}: {nearest(name, known)}")
        if name == IDENTITY:
            continue
        while len(filled) < len(slots) and name not in slots[len(filled)]:
            filled.append(IDENTITY)
        if len(filled) == len(slots):
            order = " → ".join("|".join(slot[1:]) for slot in slots)
            raise WrongUse(f"transforms of {knowledge} are out of order at '{name}': give {order}")
        filled.append(name)
    return tuple(filled + [IDENTITY] * (len(slots) - len(filled)))


@dataclass(frozen=True)
class Distiller:
    """A set of terms, at most one per knowledge, in the order of the space's table.

    Without a term of a weight above 0, the student trains alone: it takes nothing from a teacher.
    In arrow notation a distiller without terms is ``none``.

    ``name`` and ``provenance`` say where the distiller comes from. Equality, hash and ``key`` look
    at the terms alone.
    """

    terms: tuple[Term, ...]
    name: str | None = field(default=None, compare=False)
    provenance: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        order = {knowledge: index for index, knowledge in enumerate(EXTENDED)}
        terms = tuple(sorted(self.terms, key=lambda term: order[term.knowledge]))
        names = [term.knowledge for term in terms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise WrongUse(f"knowledge '{twice[0]}' stands in two terms: give it once")
        object.__setattr__(self, "terms", terms)

    def __str__(self) -> str:
        return "\n".join(map(str, self.terms)) or NONE

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Distiller:
        """Read a distiller in arrow notation: a term a line, or terms separated by ``;``.

        Raises :class:`WrongUse` for an empty text: a distiller without terms is ``none``.
        """
        lines = [line for line in re.split(r"[;\n]", text) if line.strip()]
        if not lines:
            raise WrongUse(f"a distiller needs at least one term; write {NONE} for no term")
        if [line.strip() for line in lines] == [NONE]:
            return cls((), name=name)
        return cls(tuple(Term.parse(line) for line in lines), name=name)

    @property
    def active(self) -> tuple[Term, ...]:
        """The terms of a weight above 0; other terms do nothing."""
        return tuple(term for term in self.terms if term.weight > 0)

    @property
    def needs_teacher(self) -> bool:
        """Whether a term is learned from a teacher."""
        return any(EXTENDED[term.knowledge].teacher for term in self.active)

    @property
    def stepwise(self) -> bool:
        """Whether a weight changes with the learning rate."""
        return any(term.schedule == STEPWISE for term in self.active)

    @property
    def in_shares(self) -> bool:
        """Whether a weight is a share."""
        return any(term.unit == SHARE for term in self.active)

    def check_plain(self, source: str) -> None:
        """Raise :class:`WrongUse` that names ``source`` if a weight is a share."""
        for term in self.active:
            if term.unit == SHARE:
                raise WrongUse(
                    f"{source}: the weight of {term.knowledge} is a share ({term.weight:g}), which "
                    "a trial of a search turns into a plain weight: export the search's best "
                    "distiller, or give a plain weight"
                )

    @property
    def key(self) -> str:
        """A stable hash of what the distiller computes: 16 hex digits, the same on any machine.

        Terms of weight 0, the order of terms and aliases of transforms do not change it.
        """
        terms = []
        for t in self.active:
            more = [*t._written_unit, *t._change.values()]
            terms.append([t.knowledge, list(t.applied), t.distance, t.weight, *more])
        text = json.dumps(terms, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_weights(self, weights: Mapping[str, float]) -> Distiller:
        """The same terms under other weights, given by knowledge."""
        unknown = sorted(set(weights) - {term.knowledge for term in self.terms})
        if unknown:
            raise WrongUse(f"weights: the distiller has no term of '{unknown[0]}' to weigh")
        terms = (replace(t, weight=weights.get(t.knowledge, t.weight)) for t in self.terms)
        return replace(self, terms=tuple(terms))

    def with_plain_weights(self, weights: Mapping[str, float]) -> Distiller:
        """The same terms, with ``weights``, given by knowledge, in place of their shares.

        A share of 0 is a weight of 0. Raises KeyError for a share without a plain weight.
        """
        terms = (
            replace(t, weight=weights[t.knowledge] if t.weight else 0.0, unit=PLAIN)
            if t.unit == SHARE
            else t
            for t in self.terms
        )
        return replace(self, terms=tuple(terms))

    def to_dict(self) -> dict[str, Any]:
        """The content of a distiller file; of shares, too, which no file holds."""
        terms = [
            {
                "knowledge": term.knowledge,
                "transforms": list(term.transforms),
                "distance": term.distance,
                "weight": term.weight,
                **({} if term.unit == PLAIN else {"unit": term.unit}),
                **term._change,
            }
            for term in self.terms
        ]
        document: dict[str, Any] = {"schema": files.SCHEMA, "name": self.name, "terms": terms}
        if self.provenance is not None:
            document["provenance"] = dict(self.provenance)
        return document

    @classmethod
    def from_dict(cls, document: Any, source: str = "distiller") -> Distiller:
        """Read what :meth:`to_dict` gives. Raises :class:`WrongUse`, naming ``source``, for other
        content."""
        content = files.validated(document, source)
        try:
            terms = tuple(
                Term(
                    t["knowledge"],
                    tuple(t["transforms"]),
                    t["distance"],
                    t["weight"],
                    t["schedule"],
                    t["factor"],
                    t["unit"],
                )
                for t in content["terms"]
            )
            return cls(terms, name=content["name"], provenance=content["provenance"])
        except WrongUse as error:
            raise WrongUse(f"{source}: {error}") from None

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write a distiller file; the file appears whole or not at all.

        Raises :class:`WrongUse` if a weight is a share.
        """
        self.check_plain(str(path))
        files.write(self.to_dict(), path)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Distiller:
        """Read and validate a distiller file; raises :class:`WrongUse` naming the file."""
        distiller = cls.from_dict(files.read(path), str(path))
        distiller.check_plain(str(path))
        return distiller
