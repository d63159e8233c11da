"""What a trial asks Ray Tune for: its share of a node, and which node."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ray.tune import PlacementGroupFactory

from .cluster import alive, fits
from .retries import Fault

#: The label that Ray gives every node.
_NODE = "ray.io/node-id"


def place(each: Mapping[str, float], asked: tuple[Collection[str], str | None, bool]) -> Request:
    """The request of a trial.

    ``each``: CPUs and GPUs of a worker. ``asked``: the nodes that the trial avoids, the memory of
    which it had too little, and whether it was tried before.
    """
    avoided, alone, again = asked
    own = alone_on(each, avoided, None if alone is None else Fault(alone))
    return Request({"CPU": own["cpu"], "GPU": own["gpu"]}, avoided, again)


def alone_on(
    each: Mapping[str, float], avoided: Collection[str], alone: Fault | None
) -> dict[str, float]:
    """CPUs and GPUs of a worker that shares the memory of its device, or of its host, with none."""
    if alone is None:
        return dict(each)
    if alone is Fault.DEVICE_MEMORY and each["gpu"]:
        return {**each, "gpu": 1.0}
    nodes = [node["Resources"] for node in alive() if node["NodeID"] not in avoided]
    whole = [node["CPU"] for node in nodes if fits(node, each)]
    return {**each, "cpu": max(whole, default=each["cpu"])}


def none_of(avoided: Collection[str]) -> dict[str, str]:
    """Ray's label selector of the other nodes."""
    return {_NODE: f"!in({','.join(sorted(avoided))})"}


class Request(PlacementGroupFactory):
    """One bundle, on none of some nodes.

    Tune gives a worker that is free to a trial with an equal request. A candidate that is tried for
    the first time takes any worker: which nodes get no new workers is no part of what it asks for.
    """

    def __init__(self, bundle: dict[str, float], avoided: Collection[str], again: bool) -> None:
        selector = {"bundle_label_selector": [none_of(avoided)]} if avoided else {}
        super().__init__([bundle], **selector)
        self.key = (tuple(sorted(bundle.items())), frozenset(avoided) if again else frozenset())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
