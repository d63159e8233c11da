"""Taps: features and responses of a detector read off a forward that runs anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .cross_head import BRANCHES, Branches, DensePredictions, dense_predictions, listen
from .families import dense_family, dense_head, encodes, first_stage, region_head
from .maps import feature_maps, unflattened
from .responses import (
    Levels,
    Regions,
    ask_regions,
    dense_positives,
    dense_responses,
    region_responses,
)


@dataclass(frozen=True)
class Knowledge:
    """What one detector knows of one batch, level by level.

    ``features``: (N, C, H, W); ``logits``: (N, K, M); ``localization``: (N, 4, M); ``positives``:
    (N, M), true where the detector's own assignment has a positive. For dense heads M counts
    priors, in the order (H, W, A); for RoI heads there is one level, N counts regions and M is 1.
    Responses are empty where they were not asked for; positives and ``regions`` are a training
    student's only. So are, for CrossKD, ``hidden``, what both branches of the head hold after some
    of its layers, before the activation; ``predictions``, what it predicts.
    """

    features: Levels
    logits: Levels = ()
    localization: Levels = ()
    positives: Levels = ()
    regions: Regions | None = None
    hidden: Mapping[int, Branches] = field(default_factory=dict)
    predictions: DensePredictions | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Knowledge:
        """The same knowledge with ``function`` applied to every level."""

        def each(levels: Levels) -> Levels:
            return tuple(map(function, levels))

        return Knowledge(
            each(self.features),
            each(self.logits),
            each(self.localization),
            each(self.positives),
            self.regions,
            {i: (each(first), each(second)) for i, (first, second) in self.hidden.items()},
            self.predictions and self.predictions.map(function),
        )

    def select(self, levels: tuple[int, ...]) -> Knowledge:
        """The named levels, in that order; responses of regions are of no level and stay."""

        def pick(tensors: Levels) -> Levels:
            return tuple(tensors[i] for i in levels) if tensors else ()

        if self.regions is not None:
            return replace(self, features=pick(self.features))
        return replace(
            self,
            features=pick(self.features),
            logits=pick(self.logits),
            localization=pick(self.localization),
            positives=pick(self.positives),
        )


class Tap:
    """Reads a student's knowledge from its training forward, by hooks, while it is entered.

    >>> with Tap(student, responses=True) as tap:           # doctest: +SKIP
    ...     losses = student.loss(inputs, data_samples)
    >>> tap.knowledge                                       # doctest: +SKIP
    """

    def __init__(self, model: Any, *, responses: bool, positions: Iterable[int] = ()) -> None:
        """``positions``: layers of a dense head whose maps, or its last one's answers, are kept."""
        self._model = model
        self._positions = set(positions)
        self._hidden: dict[int, tuple[list, list]] = {}
        self._dense = dense_head(model) if responses or self._positions else None
        self._region = region_head(model) if responses else None
        self._handles: list[Any] = []
        self._wrapped: list[tuple[Any, str]] = []
        self._assigned: list[tuple] = []
        self._inputs: dict[str, tuple] = {}
        self._outputs: dict[str, Any] = {}

    def __enter__(self) -> Tap:
        self._listen("neck", self._model.neck)
        if encodes(self._model):
            self._listen("encoder", self._model.encoder)
        if self._dense is not None:
            self._listen("head", self._dense)
            family = dense_family(self._dense)
            assert family is not None
            self._record(self._dense, family.assigns)
            inner = self._positions - {0, self._last}
            self._handles += listen(self._dense, inner, self._hidden)
        if self._region is not None:
            extractor, head = first_stage(self._region)
            self._listen("extractor", extractor)
            self._listen("head", head)
            self._record(head, "get_targets")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for head, method in self._wrapped:
            object.__delattr__(head, method)

    def _listen(self, name: str, module: nn.Module) -> None:
        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            self._inputs[name], self._outputs[name] = args, output

        self._handles.append(module.register_forward_hook(keep))

    def _record(self, head: Any, method: str) -> None:
        """Keep what each call of the method that assigns labels returns."""
        assign = getattr(head, method)

        def recorded(*args: Any, **kwargs: Any) -> tuple:
            self._assigned.append(assign(*args, **kwargs))
            return self._assigned[-1]

        object.__setattr__(head, method, recorded)
        self._wrapped.append((head, method))

    @property
    def _last(self) -> int:
        """The layer that predicts, as CrossKD counts them."""
        return len(getattr(self._dense, BRANCHES[0], ())) + 1

    @property
    def knowledge(self) -> Knowledge:
        seen = self._outputs
        features = tuple(seen["neck"])
        if "encoder" in seen:
            features = unflattened(seen["encoder"], features)
        if self._dense is not None:
            logits, localization = dense_responses(self._dense, seen["head"])
            positives = dense_positives(self._dense, self._assigned, logits)
            hidden = {i: (tuple(a), tuple(b)) for i, (a, b) in self._hidden.items()}
            if 0 in self._positions:
                hidden[0] = features, features
            predicted = (
                dense_predictions(self._dense, seen["head"])
                if self._last in self._positions
                else None
            )
            return Knowledge(
                features, logits, localization, positives, hidden=hidden, predictions=predicted
            )
        if self._region is not None:
            regions = Regions(rois=self._inputs["extractor"][1], labels=self._assigned[-1][0])
            head = first_stage(self._region)[1]
            return Knowledge(features, *region_responses(head, seen["head"], regions), regions)
        return Knowledge(features)


@torch.no_grad()
def teacher_knowledge(
    model: Any, inputs: Tensor, samples: list, *, responses: bool, regions: Regions | None = None
) -> Knowledge:
    """A frozen teacher's knowledge of ``inputs`` (N, 3, H, W): its head runs only if asked for.

    ``samples``: mmdet's data samples of the images. ``regions``: a student's, for RoI heads.
    """
    maps = feature_maps(model, inputs, samples)
    head = dense_head(model) if responses else None
    if head is not None:
        return Knowledge(maps, *dense_responses(head, head(maps)))
    knowledge = Knowledge(maps)
    return at_regions(model, knowledge, regions) if responses and regions else knowledge


@torch.no_grad()
def at_regions(model: Any, knowledge: Knowledge, regions: Regions) -> Knowledge:
    """The knowledge of a RoI-headed teacher with its answers for a student's regions."""
    logits, localization = ask_regions(region_head(model), knowledge.features, regions)
    return Knowledge(knowledge.features, logits, localization, regions=regions)
