"""Taps: hooks that read a detector's knowledge from a forward that runs anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .assigned import (
    dense_counted,
    dense_positives,
    places_of,
    positive,
    summed_centerness,
)
from .cross_head import BRANCHES, Branches, DensePredictions, dense_predictions, keep_maps
from .families import dense_family, dense_head, first_stage, has_encoder_maps, region_head
from .maps import feature_maps, memory_as_maps
from .responses import (
    Levels,
    Read,
    Regions,
    decoded,
    dense_responses,
    reading,
    region_responses,
    responses_at_regions,
)


@dataclass(frozen=True)
class Knowledge:
    """The knowledge that one detector has of one batch, level by level.

    N counts images. M counts the priors of a dense head, in the order (H, W, A), or the regions of
    a RoI head, whose responses are one level. (N, K, *): the axes behind the second, flattened, are
    M long; the responses of a dense head are views (N, K, H·W, A) of its outputs.
    """

    #: The detector's maps (N, C, H, W).
    features: Levels
    #: Class logits (N, K, *). No level if responses were not asked for.
    logits: Levels = ()
    #: What the head regresses, (N, R, *): R numbers, of which ``read`` makes the distances from a
    #: prior, or from the centre of a region, to the four sides of its box. No level if responses
    #: were not asked for.
    localization: Levels = ()
    #: True where the assignment of a training student has a positive: (N, M). A teacher has none.
    positives: Levels = ()
    #: True where the training student's loss looks at a prior or region: (N, M). False in the
    #: padding of an image and where the assignment ignores the prior. No level: all count.
    counted: Levels = ()
    #: The student's regions, for which the RoI heads of student and teacher predict.
    regions: Regions | None = None
    #: For CrossKD: maps of the student's head behind some of its layers, before the activation, by
    #: number of the layer. Layer 0 stands for the head's input.
    hidden: Mapping[int, Branches] = field(default_factory=dict)
    #: For CrossKD: the student's own predictions.
    predictions: DensePredictions | None = None
    #: For CrossKD: the sum of the centerness targets of FCOS's positives, a scalar.
    centerness: Tensor | None = None
    #: Makes distances (N, 4, M) of ``localization`` (N, R, M). None: they are distances.
    read: Read | None = None
    #: The image and the place in M of each positive, (P, 2). Finding it waits for the device, so it
    #: is found where mmdet's assignment waits anyway. No level: not asked for.
    places: Levels = ()

    def map(self, function: Callable[[Tensor], Tensor]) -> Knowledge:
        """The same knowledge with ``function`` applied to the tensor of each level."""

        def each(levels: Levels) -> Levels:
            return tuple(map(function, levels))

        return replace(
            self,
            features=each(self.features),
            logits=each(self.logits),
            localization=each(self.localization),
            positives=each(self.positives),
            counted=each(self.counted),
            hidden={i: (each(first), each(second)) for i, (first, second) in self.hidden.items()},
            predictions=self.predictions and self.predictions.map(function),
            places=(),
        )

    @property
    def boxes(self) -> Levels:
        """The distances (N, 4, M) of all priors or regions, level by level."""
        flat = tuple(level.flatten(2) for level in self.localization)
        return flat if self.read is None else tuple(map(self.read, flat))

    def select(self, levels: tuple[int, ...]) -> Knowledge:
        """The knowledge of some levels, by place and in this order.

        Responses for regions belong to no level of the maps: all of them stay.
        """

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
            counted=pick(self.counted),
            places=pick(self.places),
        )


class Tap:
    """Reads a student's knowledge from the training forward that runs inside of the ``with``.

    >>> with Tap(student, responses=True) as tap:           # doctest: +SKIP
    ...     losses = student.loss(inputs, data_samples)
    >>> tap.knowledge                                       # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        *,
        responses: bool,
        places: bool = False,
        positions: Iterable[int] = (),
        shapes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Prepare hooks for the neck; with ``responses``, for the head too.

        ``places``: also tell where the positives are.
        ``shapes``: (height, width) of each image without its padding; None: no image is padded.
        ``positions``: the layers of a dense head, by CrossKD's numbers, whose maps are kept. Number
        0 keeps the head's input; the number of the last layer keeps the head's predictions.
        """
        self._model = model
        self._shapes = shapes
        self._places = places
        self._positions = set(positions)
        self._hidden: dict[int, tuple[list, list]] = {}
        self._dense = dense_head(model) if responses or self._positions else None
        self._region = region_head(model) if responses else None
        self._handles: list[Any] = []
        self._wrapped: list[tuple[Any, str]] = []
        self._assigned: list[tuple] = []
        #: The first argument of each call that assigned: of a RoI head, the sampled regions.
        self._sampled: list[Any] = []
        self._inputs: dict[str, tuple] = {}
        self._outputs: dict[str, Any] = {}

    def __enter__(self) -> Tap:
        self._keep_call("neck", self._model.neck)
        if has_encoder_maps(self._model):
            self._keep_call("encoder", self._model.encoder)
        if self._dense is not None:
            self._keep_call("head", self._dense)
            self._keep_assigned(self._dense, dense_family(self._dense).assign_method)
            inner = self._positions - {0, self._last}
            self._handles += keep_maps(self._dense, inner, self._hidden)
        if self._region is not None:
            extractor, head = first_stage(self._region)
            self._keep_call("extractor", extractor)
            self._keep_call("head", head)
            self._keep_assigned(head, "get_targets")
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

    def _keep_call(self, name: str, module: nn.Module) -> None:
        """Keep the inputs and the output of the module's forward."""

        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            self._inputs[name], self._outputs[name] = args, output

        self._handles.append(module.register_forward_hook(keep))

    def _keep_assigned(self, head: Any, method: str) -> None:
        """Keep the return value of each call of the head's method that assigns labels."""
        assign = getattr(head, method)

        def recorded(*args: Any, **kwargs: Any) -> tuple:
            self._sampled.append(args[0] if args else None)
            self._assigned.append(assign(*args, **kwargs))
            return self._assigned[-1]

        object.__setattr__(head, method, recorded)
        self._wrapped.append((head, method))

    @property
    def _last(self) -> int:
        """CrossKD's number of the layer that predicts."""
        return len(getattr(self._dense, BRANCHES[0], ())) + 1

    @property
    def knowledge(self) -> Knowledge:
        """The student's knowledge, with its gradient. To be read after the forward."""
        seen = self._outputs
        features = tuple(seen["neck"])
        if "encoder" in seen:
            features = memory_as_maps(seen["encoder"], features)
        if self._dense is not None:
            logits, localization = dense_responses(self._dense, seen["head"])
            positives = dense_positives(self._dense, self._assigned, logits)
            counted = dense_counted(self._dense, self._assigned, logits, features, self._shapes)
            hidden = {i: (tuple(a), tuple(b)) for i, (a, b) in self._hidden.items()}
            if 0 in self._positions:
                hidden[0] = features, features
            predicted = (
                dense_predictions(self._dense, seen["head"])
                if self._last in self._positions
                else None
            )
            centerness = (
                summed_centerness(self._dense, self._assigned, positives)
                if self._positions
                else None
            )
            return Knowledge(
                features,
                logits,
                localization,
                positives,
                counted,
                hidden=hidden,
                predictions=predicted,
                centerness=centerness,
                read=reading(self._dense),
                places=places_of(positives) if self._places else (),
            )
        if self._region is not None:
            counts = tuple(len(image.priors) for image in self._sampled[-1])
            rois, labels = self._inputs["extractor"][1], self._assigned[-1][0]
            regions = Regions(rois, labels, counts)
            head = first_stage(self._region)[1]
            responses = region_responses(head, seen["head"], regions)
            objects = (regions.by_image(positive(labels, head.num_classes), False),)
            return Knowledge(
                features,
                *responses,
                objects,
                (regions.counted,),
                regions,
                read=partial(decoded, head.bbox_coder),
                places=places_of(objects) if self._places else (),
            )
        return Knowledge(features)


@torch.no_grad()
def teacher_knowledge(
    model: Any, inputs: Tensor, samples: list, *, responses: bool, regions: Regions | None = None
) -> Knowledge:
    """A frozen teacher's knowledge of ``inputs`` (N, 3, H, W).

    The teacher's head runs only if ``responses`` are asked for. ``samples``: mmdet's data samples
    of the images. ``regions``: the student's regions; a RoI head predicts only if they are given.
    """
    maps = feature_maps(model, inputs, samples)
    head = dense_head(model) if responses else None
    if head is not None:
        return Knowledge(maps, *dense_responses(head, head(maps)), read=reading(head))
    knowledge = Knowledge(maps)
    return add_responses(model, knowledge, regions) if responses and regions else knowledge


@torch.no_grad()
def add_responses(model: Any, knowledge: Knowledge, regions: Regions) -> Knowledge:
    """A teacher's features, together with its RoI head's responses for the student's regions."""
    logits, localization = responses_at_regions(region_head(model), knowledge.features, regions)
    read = partial(decoded, first_stage(region_head(model))[1].bbox_coder)
    return Knowledge(knowledge.features, logits, localization, regions=regions, read=read)
