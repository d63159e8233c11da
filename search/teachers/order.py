"""Teacher orders from adaptation costs (MTPD, ICML 2023): the sequence of a student's teachers.

``costs[a][b]`` is C(A, B): the loss that is left when A's features are mapped to B's. Of equal
costs the teacher of the higher score wins, then the first name. Pure Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from ...space import WrongUse, nearest
from ...space.writing import read_json

Costs = Mapping[str, Mapping[str, float]]
#: The shortest-path algorithms try paths one by one, at most so many.
MAX_PATHS = 1_000_000


@dataclass(frozen=True)
class TeacherOrder:
    """A sequence of teachers."""

    #: First to last.
    teachers: tuple[str, ...]
    #: Why the sequence has no more teachers.
    reason: str


@dataclass(frozen=True)
class Pool:
    """A student, its candidate teachers with their scores, and the costs between all of them.

    Raises :class:`WrongUse` for fewer than two teachers, for a student among the teachers, for a
    score that is not a finite number, and for a cost that is missing, negative or not a finite
    number.
    """

    student: str
    scores: Mapping[str, float]
    costs: Costs

    def __post_init__(self) -> None:
        if self.student in self.scores:
            raise WrongUse(f"scores: '{self.student}' is the student; leave it out")
        if len(self.scores) < 2:
            raise WrongUse(f"scores: {len(self.scores)} given; an order needs at least 2 teachers")
        for name, score in self.scores.items():
            if not _is_number(score):
                raise WrongUse(f"scores: {name} has {score!r}; it must be a finite number")
        for start in (self.student, *self.scores):
            for end in self.scores:
                if start != end:
                    self._check_cost(start, end)

    def _check_cost(self, start: str, end: str) -> None:
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
        """The name of the lowest cost; of equal costs the higher score, then the first name."""
        return min(names, key=lambda name: (cost(name), -self.scores[name], name))

    @property
    def final(self) -> str:
        """The teacher of the highest score."""
        return self.best(self.scores, lambda name: 0.0)


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def backward_greedy(pool: Pool, maximum: int) -> TeacherOrder:
    """Backward Greedy Selection, Algorithm 1 of MTPD's appendix.

    The teacher of the highest score is the last. Before it comes the teacher of the lowest cost to
    it, and so on, as long as that cost is below the student's cost.
    """
    order = [pool.final]
    while len(order) < min(maximum, len(pool.scores)):
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
    return _complete(order, pool)


def forward_construction(pool: Pool, maximum: int) -> TeacherOrder:
    """The teacher of the lowest cost from the student, then from that teacher, etc. (Table 8)."""
    order: list[str] = []
    while len(order) < min(maximum, len(pool.scores)):
        start = order[-1] if order else pool.student
        left = [name for name in pool.scores if name not in order]
        order.append(pool.best(left, lambda name: pool.costs[start][name]))  # noqa: B023
    return _complete(order, pool)


def shortest_path(pool: Pool, maximum: int, total: Callable[[list[float]], float]) -> TeacherOrder:
    """The path of the lowest total cost to the teacher of the highest score (Table 8).

    The path has exactly ``maximum`` teachers, or all if there are fewer. Raises :class:`WrongUse`
    if there are more than :data:`MAX_PATHS` such paths.
    """
    length = min(maximum, len(pool.scores))
    between = [name for name in pool.scores if name != pool.final]
    paths = math.perm(len(between), length - 1)
    if paths > MAX_PATHS:
        raise WrongUse(
            f"a shortest path of {length} of {len(pool.scores)} teachers is one of {paths:,}: use "
            "bgs or fewer teachers",
            "order_algorithm",
        )

    def rank(path: tuple[str, ...]) -> tuple:
        steps = zip((pool.student, *path), path, strict=False)
        cost = total([pool.costs[start][end] for start, end in steps])
        return cost, [-pool.scores[name] for name in path], path

    best = min(((*p, pool.final) for p in permutations(between, length - 1)), key=rank)
    return _complete(list(best), pool)


def _complete(order: list[str], pool: Pool) -> TeacherOrder:
    reason = "it has as many teachers as asked for"
    left = len(order) < len(pool.scores)
    return TeacherOrder(tuple(order), reason if left else "no teacher is left")


ALGORITHMS: dict[str, Callable[[Pool, int], TeacherOrder]] = {
    "bgs": backward_greedy,
    "shortest-sum": lambda pool, maximum: shortest_path(pool, maximum, sum),
    "shortest-max": lambda pool, maximum: shortest_path(pool, maximum, max),
    "forward": forward_construction,
}


def check_algorithm(algorithm: str, max_teachers: int | None) -> None:
    """Raise :class:`WrongUse` for an unknown algorithm and for a number of teachers below 1."""
    if algorithm not in ALGORITHMS:
        raise WrongUse(
            f"unknown algorithm '{algorithm}': {nearest(algorithm, ALGORITHMS)}", "order_algorithm"
        )
    if max_teachers is not None and max_teachers < 1:
        raise WrongUse(f"an order has at least 1 teacher, not {max_teachers}", "max_teachers")


def teacher_order(
    pool: Pool, algorithm: str = "bgs", max_teachers: int | None = None
) -> TeacherOrder:
    """The order of at most ``max_teachers`` (None: all) by one of :data:`ALGORITHMS`."""
    check_algorithm(algorithm, max_teachers)
    return ALGORITHMS[algorithm](pool, len(pool.scores) if max_teachers is None else max_teachers)


def read_pool(file: Path, student: str) -> Pool:
    """A pool from ``{"costs": {from: {to: cost}}, "scores": {teacher: AP}}``.

    Raises :class:`WrongUse`, naming the file, for a file that can't be read or holds something
    else, and as :class:`Pool` does.
    """
    advice = 'give {"costs": {from: {to: cost}}, "scores": {teacher: AP}}'
    document = read_json(file, "the costs", advice, "costs")
    document = document if isinstance(document, dict) else {}
    costs, scores = document.get("costs"), document.get("scores")
    if not (isinstance(costs, dict) and isinstance(scores, dict)):
        raise WrongUse(f"{file}: {advice}", "costs")
    if student not in costs:
        raise WrongUse(f"no costs from '{student}' in {file}: {nearest(student, costs)}", "student")
    wrong = [name for name, row in costs.items() if not isinstance(row, dict)]
    if wrong:
        raise WrongUse(f"{file}: the costs from '{wrong[0]}' are not {{to: cost}}", "costs")
    unscored = sorted({*costs, *(to for row in costs.values() for to in row)} - {*scores, student})
    if unscored:
        raise WrongUse(f"{file}: teacher '{unscored[0]}' has no score; add it to scores", "costs")
    try:
        return Pool(student, scores, costs)
    except WrongUse as error:
        raise WrongUse(f"{file}: {error}", "costs") from None
