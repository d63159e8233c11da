"""A search's numbers among Ray's metrics, which Prometheus reads and Grafana draws.

``docker/grafana/dashboards/detkds.json`` draws them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ray.util.metrics import Gauge, Histogram

from ..space import Candidate, Outcome, Status

#: Kinds of reasons, by what their sentences hold; a kind stands for many sentences, which name
#: losses and numbers.
_KINDS = {
    "shape error": "shape error",
    "not finite": "gradient not finite",
    "zero gradient": "zero gradient",
    "of its elements": "gradient in few elements",
    "NaN": "loss NaN",
    "infinite": "loss infinite",
    "above": "loss too large",
}
#: Ray takes its metrics every ten seconds.
RECORD_EVERY = 5.0
#: Upper ends, in seconds: from a trial of the quickstart to one of hours.
_SECONDS = [1, 3, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400]


def reason_kind(reason: str | None) -> str:
    """The kind of a rejection's reason."""
    known = reason or ""
    return next((kind for text, kind in _KINDS.items() if text in known), "other")


class SearchMetrics:
    """The metrics of one search, each with the tag ``search``: its name.

    They have the prefix ``ray_`` where Prometheus reads them.
    """

    def __init__(self, search: str) -> None:
        own = {"search": search}

        def gauge(name: str, says: str, *tags: str) -> Gauge:
            made = Gauge(name, description=says, tag_keys=("search", *tags))
            made.set_default_tags(own)
            return made

        self._best = gauge("detkds_best_ap", "The best trial's box AP so far, in [0, 1]")
        self._trials = gauge("detkds_trials", "Trials by stage and status", "stage", "status")
        self._rejections = gauge("detkds_rejections", "Rejected trials by reason", "reason")
        self._seconds = Histogram(
            "detkds_trial_seconds",
            description="Seconds of the trials that workers have scored",
            boundaries=_SECONDS,
            tag_keys=("search", "stage"),
        )
        self._seconds.set_default_tags(own)
        self._values: list[tuple[Gauge, dict[str, str], float]] = []

    def told(self, candidate: Candidate, outcome: Outcome) -> None:
        """A worker has scored a trial."""
        if outcome.ranked and outcome.seconds is not None:
            self._seconds.observe(outcome.seconds, tags={"stage": candidate.stage})

    def show(
        self,
        trials: Mapping[tuple[str, Status], int],
        reasons: Mapping[str | None, int],
        best: float | None,
    ) -> None:
        """The trials by stage and status, rejections by their reasons, the best AP in [0, 1]."""
        values: list[tuple[Gauge, dict[str, str], float]] = []
        for stage in {stage for stage, _ in trials}:
            for status in Status:
                tags = {"stage": stage, "status": status.value}
                values.append((self._trials, tags, trials.get((stage, status), 0)))
        kinds: Counter[str] = Counter()
        for reason, count in reasons.items():
            kinds[reason_kind(reason)] += count
        values += [(self._rejections, {"reason": kind}, count) for kind, count in kinds.items()]
        values += [] if best is None else [(self._best, {}, best)]
        self._values = values
        self.record()

    def record(self) -> None:
        """Give Ray the values that were shown last."""
        for gauge, tags, value in self._values:
            gauge.set(value, tags=tags)


@contextmanager
def search_metrics(search: str) -> Iterator[SearchMetrics]:
    """The metrics of a search, for the block: Ray forgets the value of a gauge that it has taken.

    So each is given again every few seconds, whatever the search waits for.
    """
    metrics, ended = SearchMetrics(search), threading.Event()

    def record() -> None:
        while not ended.wait(RECORD_EVERY):
            metrics.record()

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    try:
        yield metrics
    finally:
        ended.set()
        thread.join()
