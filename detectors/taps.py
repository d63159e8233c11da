"""Taps: features and responses of a detector read off a forward that runs anyway."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .families import dense_head, positives_of, read_responses, teacher_responses


@dataclass(frozen=True)
class Knowledge:
    """What one detector knows of one batch, level by level.

    ``features``: (N, C, H, W); ``logits``: (N, K, M); ``localization``: (N, 4, M), M priors in the
    order (H, W, A); ``positives``: (N, M), true where the detector's own assignment has a positive.
    Responses are empty where they were not asked for; positives are a training student's only.
    """

    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...] = ()
    localization: tuple[Tensor, ...] = ()
    positives: tuple[Tensor, ...] = ()

    def map(self, function: Any) -> Knowledge:
        """The same knowledge with ``function`` applied to every tensor."""
        fields = (self.features, self.logits, self.localization, self.positives)
        return Knowledge(*(tuple(function(tensor) for tensor in levels) for levels in fields))

    def select(self, levels: tuple[int, ...]) -> Knowledge:
        """The named levels, in that order."""

        def pick(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tensors[i] for i in levels) if tensors else ()

        return Knowledge(
            pick(self.features), pick(self.logits), pick(self.localization), pick(self.positives)
        )


class Tap:
    """Reads a student's knowledge from its training forward, by hooks, while it is entered.

    >>> with Tap(student, responses=True) as tap:           # doctest: +SKIP
    ...     losses = student.loss(inputs, data_samples)
    >>> tap.knowledge                                       # doctest: +SKIP
    """

    def __init__(self, model: Any, *, responses: bool) -> None:
        self._model = model
        self._head = dense_head(model) if responses else None
        self._handles: list[Any] = []
        self._features: tuple[Tensor, ...] = ()
        self._outputs: tuple = ()
        self._targets: tuple = ()

    def __enter__(self) -> Tap:
        self._handles = [self._model.neck.register_forward_hook(self._keep_features)]
        if self._head is not None:
            self._handles.append(self._head.register_forward_hook(self._keep_outputs))
            assign = self._head.get_targets

            def recorded(*args: Any, **kwargs: Any) -> tuple:
                self._targets = assign(*args, **kwargs)
                return self._targets

            object.__setattr__(self._head, "get_targets", recorded)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if self._head is not None:
            object.__delattr__(self._head, "get_targets")

    def _keep_features(self, module: nn.Module, args: Any, output: Any) -> None:
        self._features = tuple(output)

    def _keep_outputs(self, module: nn.Module, args: Any, output: Any) -> None:
        self._outputs = output

    @property
    def knowledge(self) -> Knowledge:
        if self._head is None:
            return Knowledge(self._features)
        logits, localization = read_responses(self._head, self._outputs)
        positives = positives_of(self._head, self._targets, len(self._features[0]))
        return Knowledge(self._features, logits, localization, positives)


@torch.no_grad()
def teacher_knowledge(model: Any, inputs: Tensor, *, responses: bool) -> Knowledge:
    """A frozen teacher's knowledge of ``inputs`` (N, 3, H, W): its head runs only if asked for."""
    maps = tuple(model.extract_feat(inputs))
    head = dense_head(model) if responses else None
    if head is None:
        return Knowledge(maps)
    return Knowledge(maps, *teacher_responses(head, maps))
