"""What every kind of knowledge is: what it needs, which pairs share it, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..space import Term
from .observe import Needs, Observation
from .pairing import Pair


class Kind(ABC):
    """One kind of knowledge, as one term of a distiller compares it.

    A kind is no module. What it learns or computes for several kinds at once is a *part*: a module
    that maps an observation to what the kinds see. Kinds that name a part alike share the part.
    """

    #: What the kind reads of the student's and the teacher's forward.
    needs = Needs()

    def __init__(self, term: Term, pair: Pair) -> None:
        self.term, self.pair = term, pair

    @classmethod
    @abstractmethod
    def mismatch(cls, pair: Pair) -> str | None:
        """Why the pair can't share this knowledge, naming both sides; None if the pair can."""

    @classmethod
    def excluded(cls, pair: Pair) -> dict[str, str]:
        """Options of this knowledge that the pair has no use for, and why."""
        return {}

    def parts(self) -> Mapping[str, Callable[[], nn.Module]]:
        """The modules that the kind sees an observation through, each by its name."""
        return {}

    def join(self, parts: nn.ModuleDict) -> None:  # noqa: B027, most kinds want nothing
        """Tell the parts, which are built, what the kind wants of them."""

    def extra_losses(self, observation: Observation, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Losses by name that the student is trained by besides the distance."""
        return {}

    @abstractmethod
    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        """The distance between student and teacher, a scalar, not yet weighted.

        ``seen``: what each part made of the observation, by the part's name.
        """
