"""What is done about work that fails: where it is tried again, and which nodes get no more.

Plain bookkeeping, without Ray. A *work* is whatever can be tried again: a candidate by its number,
a training by its folder.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import median

#: A candidate whose worker dies, on a node that goes on, is tried again so often.
RETRIES = 2
#: A node is put aside after it has failed so many works that other nodes completed.
FAULTS_OF_A_NODE = 2
#: Work that waits for other nodes than those that are there takes these after so many seconds.
PATIENCE_SECONDS = 60.0
#: A deadline is so many times what the work's kind takes, and so many seconds at least.
MULTIPLE = 5
LEAST_SECONDS = 600.0
#: What a kind takes is the median of its last works: a cluster may change.
_LAST = 101

_MEMORY = re.compile(r"out of memory|OutOfMemory|out_of_memory|low on memory|MemoryError", re.I)
_DEVICE = re.compile(r"cuda|hip|cublas|cudnn|xpu", re.I)


class Fault(str, Enum):
    """Why a try gave no score."""

    #: An exception in the worker.
    RAISED = "raised"
    #: The worker died, and its node went on.
    DIED = "died"
    #: The try took longer than its deadline.
    LATE = "late"
    #: The device, or the host, had no more memory.
    DEVICE_MEMORY = "device memory"
    HOST_MEMORY = "host memory"
    #: The node left, or does not see the work folder: nobody's failure.
    LOST = "lost"


#: After which a try has a device or a node to itself.
ALONE = (Fault.DEVICE_MEMORY, Fault.HOST_MEMORY)


@dataclass(frozen=True)
class Place:
    """Where a work is tried.

    ``avoided``: nodes, by their ids, that it is not tried on. ``alone``: the memory that the last
    try had too little of; the work shares that device, or that host, with no other.
    """

    avoided: frozenset[str] = frozenset()
    alone: Fault | None = None


@dataclass(frozen=True)
class _Try:
    node: str | None
    fault: Fault


class Retries:
    """What has failed where, and what to do about it.

    ``nodes``: the names of the nodes that are there now and have room for a work, by their ids.
    ``say`` is called with one line for each node that is put aside.
    """

    def __init__(
        self,
        nodes: Callable[[], Mapping[str, str]],
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._nodes, self._say = nodes, say
        self._tries: dict[Hashable, list[_Try]] = defaultdict(list)
        self._faults: dict[str, int] = defaultdict(int)
        #: Nodes that get no more work.
        self.aside: set[str] = set()

    @property
    def avoided(self) -> frozenset[str]:
        """Nodes that get no new work: put aside, or with too many failures that are undecided."""
        undecided: dict[str, int] = defaultdict(int)
        for tries in self._tries.values():
            for node in {one.node for one in tries if _accuses(one.fault)}:
                undecided[node or ""] += 1
        held = {node for node, many in undecided.items() if many >= FAULTS_OF_A_NODE}
        if held and not self._others(held | self.aside):
            held = set()
        return frozenset(self.aside | held)

    def completed(self, work: Hashable, node: str | None) -> None:
        """The work was completed; nodes that failed it before have failed what others complete."""
        self._faults.pop(node or "", None)
        for failed in {one.node for one in self._tries.pop(work, []) if _accuses(one.fault)}:
            if failed is not None and failed != node:
                self._accuse(failed)

    def _accuse(self, node: str) -> None:
        self._faults[node] += 1
        if self._faults[node] >= FAULTS_OF_A_NODE:
            self.put_aside(node, f"it failed {self._faults[node]} that other nodes completed")

    def put_aside(self, node: str, why: str) -> None:
        """Give the node no more work, unless it is the last one."""
        if node in self.aside or not self._others({*self.aside, node}):
            return
        self.aside.add(node)
        self._say(f"node {self._nodes().get(node, node)} is put aside: {why}")

    def _others(self, without: set[str]) -> set[str]:
        return set(self._nodes()) - without

    def again(self, work: Hashable, node: str | None, fault: Fault) -> Place | None:
        """Where a work that has just failed is tried again; None: it has failed for good.

        A lost worker does not count, however often. An exception is tried on another node if there
        is one; a late try on another worker; a worker that died on another one, :data:`RETRIES`
        times; after too little memory, alone. A death counts only while its node is there: a
        machine that is taken away may kill the worker first.
        """
        tries = self._tries[work]
        if fault is not Fault.LOST:
            tries.append(_Try(node, fault))
        known = self._nodes()
        avoided = {one.node for one in tries if one.node and _accuses(one.fault)}
        others = set(known) - self.aside - avoided
        counts = [one for one in tries if one.node is None or one.node in known]
        same = sum(one.fault is fault for one in counts)
        most = {Fault.RAISED: 1 if others else 0, Fault.DIED: RETRIES}.get(fault, 1)
        if fault is not Fault.LOST and (same > most or len(counts) > RETRIES + 1):
            del self._tries[work]
            return None
        memory = [one.fault for one in tries if one.fault in ALONE]
        return Place(
            frozenset((avoided if others else set()) | self.aside), memory[-1] if memory else None
        )

    def nowhere(self, place: Place) -> bool:
        """Whether all nodes that are there now are avoided. Where there is none, one may come."""
        known = set(self._nodes())
        return bool(known) and known <= place.avoided

    def tries(self, work: Hashable) -> int:
        """How many tries of the work have failed so far."""
        return len(self._tries.get(work, []))


def _accuses(fault: Fault) -> bool:
    """Whether the cause of a fault may lie in the node."""
    return fault in (Fault.RAISED, Fault.DIED, Fault.LATE)


def fault_of(error: str, otherwise: Fault) -> Fault:
    """Which memory an error is about, if any.

    >>> fault_of("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB", Fault.DIED)
    <Fault.DEVICE_MEMORY: 'device memory'>
    """
    if not _MEMORY.search(error):
        return otherwise
    return Fault.DEVICE_MEMORY if _DEVICE.search(error) else Fault.HOST_MEMORY


class Deadline:
    """How long a work may take, in seconds: as the user says, or a multiple of its kind's median.

    ``known``: what works of the kind took. ``least``: the least that is derived from it. Without
    anything known, it is ``unknown``; None: there is no deadline.
    """

    def __init__(
        self,
        given: float | None,
        known: Iterable[float] = (),
        *,
        multiple: float = MULTIPLE,
        least: float = LEAST_SECONDS,
        unknown: float | None = None,
    ) -> None:
        self._given, self._multiple, self._least, self._unknown = given, multiple, least, unknown
        self._known = deque(known, maxlen=_LAST)
        #: None: there is no deadline.
        self.seconds = self._found()

    def took(self, seconds: float | None) -> None:
        """A work was completed in so many seconds."""
        if seconds is not None:
            self._known.append(seconds)
            self.seconds = self._found()

    def _found(self) -> float | None:
        if self._given is not None:
            return self._given
        if not self._known:
            return self._unknown
        return max(self._least, self._multiple * median(self._known))

    @property
    def reason(self) -> str:
        """What it is, and why."""
        if self._given is not None or not self._known:
            return f"{self.seconds:g} s"
        took = median(self._known)
        return f"{self.seconds:.0f} s, where others of its kind took {took:.0f} s"
