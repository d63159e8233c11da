"""Where work is tried again and which nodes are put aside: bookkeeping without Ray."""

from __future__ import annotations

import pytest
from detkds.workers import retries
from detkds.workers.places import Request
from detkds.workers.retries import Deadline, Fault, Place, Retries, fault_of


class Cluster:
    """Nodes that come and go, with what was said about them."""

    def __init__(self, *names: str) -> None:
        self.nodes = {name: f"host-{name}" for name in names}
        self.lines: list[str] = []
        self.retries = Retries(lambda: self.nodes, self.lines.append)

    def again(self, work: int, node: str | None, fault: Fault) -> Place | None:
        return self.retries.again(work, node, fault)


def test_an_exception_is_tried_on_another_node_and_then_it_is_the_candidates() -> None:
    cluster = Cluster("a", "b", "c")
    assert cluster.again(0, "a", Fault.RAISED) == Place(frozenset("a"))
    assert cluster.again(0, "b", Fault.RAISED) is None
    assert Cluster("a").again(0, "a", Fault.RAISED) is None, "there is no other node"


def test_a_node_that_fails_what_others_complete_is_put_aside_and_named_once() -> None:
    cluster = Cluster("bad", "good")
    for work in range(2):
        assert cluster.again(work, "bad", Fault.RAISED)
        assert not cluster.retries.aside
    assert cluster.retries.avoided == {"bad"}, "it gets nothing new until others have decided"
    cluster.retries.completed(0, "good")
    cluster.retries.completed(1, "good")
    assert cluster.retries.avoided == cluster.retries.aside == {"bad"}
    assert cluster.lines == [
        "node host-bad is put aside: it failed 2 that other nodes completed",
    ]
    assert cluster.again(2, "good", Fault.RAISED) is None, "no other node is left"


def test_a_candidate_that_fails_everywhere_accuses_no_node() -> None:
    cluster = Cluster("a", "b")
    for work in range(20):
        first, second = ("a", "b") if work % 2 else ("b", "a")
        assert cluster.again(work, first, Fault.RAISED)
        assert cluster.again(work, second, Fault.RAISED) is None
    assert not cluster.retries.avoided
    assert not cluster.lines


def test_a_node_that_fails_now_and_then_is_kept() -> None:
    cluster = Cluster("a", "b")
    for work in range(0, 20, 2):
        assert cluster.again(work, "a", Fault.RAISED)
        cluster.retries.completed(work, "b")
        cluster.retries.completed(work + 1, "a")
    assert not cluster.retries.aside


def test_the_last_node_is_never_put_aside() -> None:
    cluster = Cluster("a", "b")
    cluster.retries.put_aside("a", "it does not see the work folder")
    cluster.retries.put_aside("b", "it does not see the work folder")
    assert cluster.lines == ["node host-a is put aside: it does not see the work folder"]


def test_a_lost_worker_never_counts() -> None:
    cluster = Cluster("a", "b")
    for _ in range(50):
        assert cluster.again(0, "a", Fault.LOST) == Place()
    assert cluster.again(0, "a", Fault.DIED)


def test_a_death_counts_only_while_its_node_is_there() -> None:
    """A machine that is taken away may kill the worker before it is gone itself."""
    cluster = Cluster("a")
    for number in range(20):
        node = f"spot-{number}"
        cluster.nodes[node] = node
        assert cluster.again(0, node, Fault.DIED)
        del cluster.nodes[node]
    assert [cluster.again(0, "a", Fault.DIED) is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("fault", "tries"),
    [(Fault.LATE, 2), (Fault.DEVICE_MEMORY, 2), (Fault.HOST_MEMORY, 2), (Fault.DIED, 3)],
)
def test_how_often_a_fault_is_tried(fault: Fault, tries: int) -> None:
    cluster = Cluster("a")
    assert [cluster.again(7, "a", fault) is None for _ in range(tries)][-2:] == [False, True]
    assert cluster.retries.tries(7) == 0


def test_faults_of_all_kinds_are_counted_together() -> None:
    cluster = Cluster("a", "b")
    turn = [Fault.DIED, Fault.LATE, Fault.HOST_MEMORY, Fault.DIED]
    assert [cluster.again(0, "ab"[i % 2], f) is None for i, f in enumerate(turn)][-1]


def test_after_too_little_memory_it_is_tried_alone() -> None:
    place = Cluster("a").again(0, "a", Fault.HOST_MEMORY)
    assert place == Place(alone=Fault.HOST_MEMORY)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", Fault.DEVICE_MEMORY),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: out of memory", Fault.HOST_MEMORY),
        ("MemoryError", Fault.HOST_MEMORY),
        ("Task was killed due to the node running low on memory.", Fault.HOST_MEMORY),
        ("SIGKILL by OOM killer due to high memory usage is one of the causes", Fault.DIED),
        ("RuntimeError: CUDA error: device-side assert triggered", Fault.DIED),
    ],
)
def test_what_an_error_tells(error: str, fault: Fault) -> None:
    assert fault_of(error, Fault.DIED) is fault


def test_deadlines() -> None:
    assert Deadline(None).seconds is None, "nothing is known"
    given = Deadline(5, [1000.0])
    assert (given.seconds, given.reason) == (5, "5 s")
    known = Deadline(None, [100.0, 200.0, 1000.0])
    assert known.seconds == 200 * retries.MULTIPLE
    known.took(None)
    for _ in range(500):
        known.took(10.0)
    assert known.seconds == retries.LEAST_SECONDS, "the last works count"
    assert known.reason == "600 s, where others of its kind took 10 s"
    assert Deadline(None, unknown=3600.0).reason == "3600 s"


def test_first_tries_share_workers_and_later_tries_do_not() -> None:
    """Tune gives a free worker to a trial with an equal request."""
    bundle = {"CPU": 1.0}
    assert Request(bundle, ["x"], again=False) == Request(bundle, [], again=False)
    assert Request(bundle, ["x"], again=True) != Request(bundle, [], again=False)
    assert Request(bundle, ["x"], again=True) != Request(bundle, ["y"], again=True)
    assert len({Request(bundle, [], again=False), Request(bundle, ["x"], again=False)}) == 1
