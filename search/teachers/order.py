"""Teacher orders from adaptation costs (MTPD, ICML 2023): which teacher a student learns from when.

Costs are C(A, B) by name, ``costs[a][b]``: what is left when A's features are mapped to B's. Pure
Python; ties go to the higher score, then to the name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from ...space import WrongUse, nearest

Costs = Mapping[str, Mapping[str, float]]
#: Paths of the shortest-path algorithms are tried one by one.
MOST_PATHS = 1_000_000


@dataclass(frozen=True)
class TeacherOrder:
    """The teachers, first to last, and why there are no more."""

    teachers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Pool:
    """A student, its candidate teachers with their scores, and the costs between all of them.

    Raises :class:`WrongUse` for fewer than two teachers, a student among them, a teacher without a
    score, and a cost that is missing, negative or not a finite number.
    """

    student: str
    scores: Mapping[str, float]
    costs: Costs

    def __post_init__(self) -> None:
        if self.student in self.scores:
            raise WrongUse(f"teachers: '{self.student}' is the student; leave it out of the scores")
        if len(self.scores) < 2:
            raise WrongUse(f"teachers: {len(self.scores)} given; an order needs at least 2")
        for name, score in self.scores.items():
            if not _is_number(score):
                raise WrongUse(f"scores: {name} has {score!r}; it must be a finite number")
        for start in (self.student, *self.scores):
            for end in self.scores:
                if start != end:
                    self._check(start, end)

    def _check(self, start: str, end: str) -> None:
        if start not in self.costs:
            raise WrongUse(f"costs: none from '{start}': {nearest(start, self.costs)}")
        cost = self.costs[start].get(end)
        if cost is None:
            raise WrongUse(f"costs: the one from '{start}' to '{end}' is missing")
        if not _is_number(cost) or cost < 0:
            raise WrongUse(
                f"costs: from '{start}' to '{end}' it is {cost!r}; it must be a finite number >= 0"
            )

    def best(self, names: Iterable[str], cost: Callable[[str], float]) -> str:
        """The name of the lowest cost; of equals the higher score, then the first name."""
        return min(names, key=lambda name: (cost(name), -self.scores[name], name))

    @property
    def final(self) -> str:
        """The teacher of the highest score."""
        return self.best(self.scores, lambda name: 0.0)


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def backward_greedy(pool: Pool, most: int) -> TeacherOrder:
    """Backward Greedy Selection, Algorithm 1 of MTPD's appendix.

    The best teacher last; before it, again and again, the one that is closest to the next, as long
    as one is closer to it than the student is.
    """
    order = [pool.final]
    while len(order) < min(most, len(pool.scores)):
        target = order[0]
        limit = pool.costs[pool.student][target]
        left = [name for name in pool.scores if name not in order]
        closer = [name for name in left if pool.costs[name][target] < limit]
        if not closer:
            return TeacherOrder(
                tuple(order),
                f"no teacher left is closer to {target} than {pool.student} is ({limit:.3g})",
            )
        order.insert(0, pool.best(closer, lambda name: pool.costs[name][target]))  # noqa: B023
    return _full(order, most)


def forward_construction(pool: Pool, most: int) -> TeacherOrder:
    """The nearest teacher to the student, then the nearest to that one, and so on (Table 8)."""
    order: list[str] = []
    while len(order) < min(most, len(pool.scores)):
        start = order[-1] if order else pool.student
        left = [name for name in pool.scores if name not in order]
        order.append(pool.best(left, lambda name: pool.costs[start][name]))  # noqa: B023
    return _full(order, most)


def shortest_path(pool: Pool, most: int, total: Callable[[list[float]], float]) -> TeacherOrder:
    """The path of exactly ``most`` teachers to the best one of the least total cost (Table 8)."""
    length = min(most, len(pool.scores))
    between = [name for name in pool.scores if name != pool.final]
    paths = math.perm(len(between), length - 1)
    if paths > MOST_PATHS:
        raise WrongUse(
            f"--algorithm: a shortest path of {length} of {len(pool.scores)} teachers is one of "
            f"{paths:,}: use bgs or fewer teachers"
        )

    def rank(path: tuple[str, ...]) -> tuple:
        steps = zip((pool.student, *path), path, strict=False)
        cost = total([pool.costs[start][end] for start, end in steps])
        return cost, [-pool.scores[name] for name in path], path

    best = min(((*p, pool.final) for p in permutations(between, length - 1)), key=rank)
    return _full(list(best), most)


def _full(order: list[str], most: int) -> TeacherOrder:
    reason = "the most teachers asked for" if len(order) == most else "no teacher is left"
    return TeacherOrder(tuple(order), reason)


ALGORITHMS: dict[str, Callable[[Pool, int], TeacherOrder]] = {
    "bgs": backward_greedy,
    "shortest-sum": lambda pool, most: shortest_path(pool, most, sum),
    "shortest-max": lambda pool, most: shortest_path(pool, most, max),
    "forward": forward_construction,
}


def check_algorithm(algorithm: str, most: int | None) -> None:
    """Raise :class:`WrongUse` for an unknown algorithm and a number of teachers below 1."""
    if algorithm not in ALGORITHMS:
        raise WrongUse(f"--algorithm {algorithm}: {nearest(algorithm, ALGORITHMS)}")
    if most is not None and most < 1:
        raise WrongUse(f"--max-teachers {most}: an order has at least 1 teacher")


def teacher_order(pool: Pool, algorithm: str = "bgs", most: int | None = None) -> TeacherOrder:
    """The order of at most ``most`` teachers (all by default) by one of :data:`ALGORITHMS`."""
    check_algorithm(algorithm, most)
    return ALGORITHMS[algorithm](pool, len(pool.scores) if most is None else most)


def read_pool(file: Path, student: str) -> Pool:
    """A pool from ``{"costs": {from: {to: cost}}, "scores": {teacher: AP}}``.

    Raises :class:`WrongUse` naming the file for one that can't be read or is not like that, and
    as :class:`Pool` does.
    """
    try:
        document = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise WrongUse(f"--costs {file}: can't read it: {error.strerror}") from None
    except ValueError as error:
        raise WrongUse(f"--costs {file}: not a whole JSON document: {error}") from None
    document = document if isinstance(document, dict) else {}
    costs, scores = document.get("costs"), document.get("scores")
    if not (isinstance(costs, dict) and isinstance(scores, dict)):
        raise WrongUse(
            f'--costs {file}: give {{"costs": {{from: {{to: cost}}}}, "scores": {{teacher: AP}}}}'
        )
    if student not in costs:
        raise WrongUse(f"--student {student}: no costs from it: {nearest(student, costs)}")
    wrong = [name for name, row in costs.items() if not isinstance(row, dict)]
    if wrong:
        raise WrongUse(f"--costs {file}: the costs from '{wrong[0]}' are not {{to: cost}}")
    unscored = sorted({*costs, *(to for row in costs.values() for to in row)} - {*scores, student})
    if unscored:
        raise WrongUse(f"--costs {file}: teacher '{unscored[0]}' has no score; add it to scores")
    try:
        return Pool(student, scores, costs)
    except WrongUse as error:
        raise WrongUse(f"--costs {file}: {error}") from None
