"""Monte Carlo tree search over the slots, by UCT: the rival of DetKDS Table 12."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ...settings import Search
from ...space import Distiller, Outcome
from .base import Algorithm
from .budget import Budgeted, value
from .stages import Choice, Stage

#: The c of UCB1, for rewards from 0 to 1.
EXPLORATION = math.sqrt(2)
#: Draws below the tree, of which the best by the move averages is taken.
ROLLOUTS = 20


def mcts(stage: Stage, settings: Search, rng: Random) -> Algorithm:
    """UCT (Kocsis and Szepesvári, ECML 2006), a level of the tree for each slot.

    DetKDS names Monte Carlo tree search as a rival (Table 12) and prints no details, so these are
    UCT's own: every candidate adds one node. With so few candidates the tree stays shallow, so the
    choices below it matter: of some that the stage draws, those are taken whose choices have had
    the highest rewards wherever they stood (the move averages of MAST, Finnsson and Björnsson, AAAI
    2008). Rewards are scores from the lowest to the highest so far, as 0 to 1; a rejected candidate
    has 0. Candidates without an outcome count as visits with a reward of 0 (virtual loss), so that
    workers spread over the tree.
    """
    return Budgeted(stage, settings, rng, TreeSearch(stage))


@dataclass
class _Node:
    """``visits``: with those whose outcome is open; ``scored`` and ``total``: of the scores."""

    visits: int = 0
    scored: int = 0
    total: float = 0.0


class TreeSearch:
    """The tree: a node for each tuple of first choices that was visited."""

    learns = True

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._nodes: dict[tuple[Choice, ...], _Node] = {(): _Node()}
        #: The same for each choice of each slot, wherever in the tree.
        self._moves: dict[tuple[int, Choice], _Node] = {}
        self._low, self._high = math.inf, -math.inf
        #: The nodes that each open distiller has visited, by its key.
        self._open: dict[str, list[list[_Node]]] = {}

    def propose(self, rng: Random) -> Distiller:
        """Down the tree by UCT to a node that is not in it, and from there by move averages."""
        chosen = self._select(rng)
        drawn = [self._complete(chosen, rng) for _ in range(ROLLOUTS)]
        # No proposal is the student alone.
        active = [one for one in drawn if one.active] or [self._stage.random(rng)]
        distiller = max(active, key=self._expected)
        self.given(distiller)
        return distiller

    def _expected(self, distiller: Distiller) -> float:
        """The sum of how far each choice's rewards lie above the mean reward.

        Of n rewards and the mean reward the mean is taken, since few say little.
        """
        mean, choices = self._reward(self._nodes[()]), self._stage.encode(distiller)
        moves = [
            self._moves[index, choice]
            for index, choice in enumerate(choices)
            if (index, choice) in self._moves and not self._stage.idle(choices[:index])
        ]
        return sum((self._reward(m) - mean) * m.visits / (m.visits + 1) for m in moves)

    def given(self, distiller: Distiller) -> None:
        choices = self._stage.encode(distiller)
        path = self._visited(choices)
        for index, choice in enumerate(choices):
            if not self._stage.idle(choices[:index]):
                path.append(self._moves.setdefault((index, choice), _Node()))
        self._open.setdefault(distiller.key, []).append(path)
        for node in path:
            node.visits += 1

    def told(self, distiller: Distiller, outcome: Outcome) -> None:
        path, scored = self._open[distiller.key].pop(0), value(outcome)
        if scored is None:
            return
        self._low, self._high = min(self._low, scored), max(self._high, scored)
        for node in path:
            node.scored += 1
            node.total += scored

    def _select(self, rng: Random) -> list[Choice]:
        """The choices of the first node on the way down that is not in the tree, or of a leaf."""
        chosen: list[Choice] = []
        slots = self._stage.slots
        while tuple(chosen) in self._nodes and len(chosen) < len(slots):
            slot = slots[len(chosen)]
            if self._stage.idle(chosen):
                slot = slot[:1]
            new = [choice for choice in slot if (*chosen, choice) not in self._nodes]
            chosen.append(rng.choice(new) if new else self._best(chosen, slot))
        return chosen

    def _best(self, chosen: Sequence[Choice], slot: Sequence[Choice]) -> Choice:
        """The choice of the highest upper confidence bound, the first of equals."""
        parent = self._nodes[tuple(chosen)].visits

        def bound(choice: Choice) -> float:
            node = self._nodes[(*chosen, choice)]
            return self._reward(node) + EXPLORATION * math.sqrt(math.log(parent) / node.visits)

        return max(slot, key=bound)

    def _reward(self, node: _Node) -> float:
        """The mean reward of the node's visits, from 0 to 1."""
        span = self._high - self._low
        return (node.total - node.scored * self._low) / span / node.visits if span > 0 else 0.0

    def _complete(self, chosen: Sequence[Choice], rng: Random) -> Distiller:
        """A random distiller with these first choices."""
        drawn, choices = self._stage.encode(self._stage.random(rng)), list(chosen)
        for index in range(len(chosen), len(drawn)):
            slot = self._stage.slots[index]
            if self._stage.idle(choices):
                choices.append(slot[0])
            elif self._stage.idle(drawn[:index]):
                choices.append(rng.choice(slot))
            else:
                choices.append(drawn[index])
        return self._stage.decode(choices)

    def _visited(self, choices: list[Choice]) -> list[_Node]:
        """The nodes of these choices, of which the first that is not in the tree is added."""
        path = []
        for length in range(len(choices) + 1):
            prefix = tuple(choices[:length])
            new = prefix not in self._nodes
            path.append(self._nodes.setdefault(prefix, _Node()))
            if new:
                break
        return path
