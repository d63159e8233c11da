"""The composed distillation loss: the weights of a distiller's terms, and a loop over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..space import EXTENDED, STEPWISE, Distiller, Term, WrongUse
from .kinds import KINDS, check_pair
from .observe import Needs, Observation
from .pairing import Pair


@contextmanager
def own_numbers() -> Iterator[None]:
    """Random numbers of its own for the block, from the seed of the process.

    A part of a loss draws the same first weights whatever else is built, and a student the same
    whether its teacher is built with it or before it, and whatever its distiller is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed())
        yield


class DistillationLoss(nn.Module):
    """Σ over terms of weight · D(T⟨student, teacher⟩), DetKDS formulas (1) to (3).

    ``pair.teacher`` may be None for a distiller of ``label`` alone. With DetKDS's terms the loss is
    one graph for ``torch.compile`` (``distillation.compile()``), which takes a minute and makes the
    loss two times as fast on a CPU (``benchmarks/loss.py --compile``). Raises :class:`WrongUse`
    when the pair can't share a knowledge that the distiller asks for, and for a weight in shares.
    """

    def __init__(self, distiller: Distiller, pair: Pair) -> None:
        super().__init__()
        distiller.check_plain("the distiller")
        check_pair(distiller, pair.student, pair.teacher)
        self.kinds = [KINDS[term.knowledge](term, pair) for term in distiller.active]
        self.parts = nn.ModuleDict()
        for kind in self.kinds:
            for name, build in kind.parts().items():
                if name not in self.parts:
                    with own_numbers():
                        self.parts[name] = build()
            kind.join(self.parts)
        #: What an observation must hold.
        self.needs = Needs.of(kind.needs for kind in self.kinds)
        self._milestones: int | None = None

    def follow(self, count: Callable[[], int]) -> None:
        """Take over how many milestones the learning rate has passed.

        ``count`` is called if a weight is ``stepwise``, else not.
        """
        if any(kind.term.schedule == STEPWISE for kind in self.kinds):
            self._milestones = count()

    def forward(self, observation: Observation) -> dict[str, Any]:
        """Weighted losses by name, ``loss_<knowledge>``, each a scalar, after the extra losses.

        A ``stepwise`` term adds its weight as ``weight_<knowledge>``. Raises :class:`WrongUse` for
        a ``stepwise`` term before :meth:`follow`.
        """
        losses: dict[str, Any] = {}
        seen = {name: part(observation) for name, part in self.parts.items()}
        for kind in self.kinds:
            losses.update(kind.extra_losses(observation, seen))
        with torch.autocast(observation.student.features[0].device.type, enabled=False):
            for kind in self.kinds:
                loss, weight = kind.loss(observation, seen), self.weight(kind.term)
                losses[f"loss_{kind.term.knowledge}"] = weight * loss
                if kind.term.schedule == STEPWISE:
                    losses[f"weight_{kind.term.knowledge}"] = loss.new_full((), weight)
        return losses

    def weight(self, term: Term) -> float:
        """The term's weight, which a ``stepwise`` term multiplies once by its factor.

        SSSD changes its coefficient once, at iteration 120,000, "to sustain distillation impact"
        as the learning rate decays: in the usual schedule of 180,000 iterations (milestones 120,000
        and 160,000) that is the first milestone. No factor is printed in the text that we read; the
        usual 2 is ours.
        """
        if term.factor is None:
            return term.weight
        if self._milestones is None:
            raise WrongUse(
                f"{term.knowledge}: a stepwise weight follows the learning rate's milestones: add "
                "dict(type='DistillationHook') to custom_hooks"
            )
        return term.weight * (term.factor if self._milestones else 1)


class TeacherEnsemble(nn.Module):
    """Several teachers at once: the mean of their distillation losses (MTPD's baseline).

    Terms that need no teacher (``label``) count once. The losses of the i-th teacher, counted from
    0, are named ``loss_<knowledge>_<i>``.
    """

    def __init__(self, distiller: Distiller, pairs: Sequence[Pair]) -> None:
        super().__init__()
        taught = [term for term in distiller.active if EXTENDED[term.knowledge].teacher]
        alone = [term for term in distiller.active if not EXTENDED[term.knowledge].teacher]
        shared = replace(distiller, terms=tuple(taught))
        self.losses = nn.ModuleList(DistillationLoss(shared, pair) for pair in pairs)
        self.alone = nn.ModuleList(
            [DistillationLoss(replace(distiller, terms=tuple(alone)), Pair(pairs[0].student))]
            if alone
            else []
        )
        self.needs = Needs.of(loss.needs for loss in self._all)

    @property
    def _all(self) -> list[Any]:
        return [*self.losses, *self.alone]

    def follow(self, count: Callable[[], int]) -> None:
        """As :meth:`DistillationLoss.follow`."""
        for loss in self._all:
            loss.follow(count)

    def forward(self, observation: Observation) -> dict[str, Any]:
        """As :meth:`DistillationLoss.forward`; ``observation`` holds every teacher's knowledge."""
        found: dict[str, Any] = {}
        for loss in self.alone:
            found.update(loss(observation))
        for index, loss in enumerate(self.losses):
            for name, value in loss(observation.under(index)).items():
                share = len(self.losses) if name.startswith("loss_") else 1
                found[f"{name}_{index}"] = value / share
        return found
