"""Searches in a store, written row by row as a search writes them, and the parts of a page."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import Any

from detkds.db import CostRow, Store
from detkds.db.models import Trial
from detkds.db.rows import TEACHER_SCORED
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status
from sqlalchemy import insert

#: Text that looks like HTML, and closes what a careless page would have open.
NASTY = "<img src=x onerror=alert(1)>'\"</script></title><b>&amp;"
PKD, NONE = Distiller.parse("global: identity, pearson × 5", "pkd"), Distiller((), "none")
FOUND = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5\nlogits: norm_n, pearson × 2")
CONFIG: dict[str, Any] = {
    "student": {"config": "student.py"},
    "teacher": {"config": "teacher.py"},
    "teachers": {"r18": {"score": 30.0}, "r34": {"score": 34.0}},
    "proxy": {"train_images": 8, "val_images": 4},
    "search": {"start": [NONE.to_dict(), PKD.to_dict()]},
}
TEACHER_AP = 0.55
CONFIRMED: dict[str, Any] = {
    "trial": 2,
    "title": "trial 2",
    "rival": "pkd",
    "leads": {"trial": 0.05, "confirmed": 0.04},
    "probability": 0.97,
    "contenders": [
        {"title": "trial 2", "trial_ap": 0.31, "aps": [0.30, 0.32, 0.31]},
        {"title": "pkd", "trial_ap": 0.26, "aps": [0.26, 0.27, 0.28]},
        {"title": "none", "trial_ap": 0.2, "aps": [0.21]},
    ],
}
OUTCOMES = [
    (NONE, "start", Outcome(Status.COMPLETED, 0.2, seconds=100.0)),
    (PKD, "start", Outcome(Status.COMPLETED, 0.26, seconds=100.0)),
    (FOUND, "weights", Outcome(Status.COMPLETED, 0.31, seconds=100.0)),
    ("logits: norm_n, l2 × 5", "logits", Outcome(Status.STOPPED, early_score=0.05, seconds=40.0)),
    ("logits: norm_c, l2 × 5", "logits", Outcome.rejected(NASTY)),
    ("logits: norm_n, kl × 5", "logits", Outcome.failed(f"Traceback\n{NASTY}")),
]


def add(store: Store, search_id: int, number: int, distiller: Any, stage: str) -> int:
    terms = Distiller.parse(distiller) if isinstance(distiller, str) else distiller
    return store.add_trial(search_id, Candidate(number, stage, terms), number, "conditions", 0)


def finished_search(store: Store, name: str = "cells") -> int:
    """A confirmed search with final trainings and teachers' costs; returns its id."""
    search = store.create_search(name, CONFIG, "conditions", 7)
    for number, (distiller, stage, outcome) in enumerate(OUTCOMES):
        store.tell_trial(add(store, search.id, number, distiller, stage), outcome, number)
    teacher = store.add_training(TEACHER_SCORED, 7, "proxy", "conditions", search.id)
    store.finish_training(teacher, Outcome(Status.COMPLETED, TEACHER_AP))
    store.confirm_search(search.id, CONFIRMED)
    finals = {"none": (None, 0.15), "pkd": (PKD, 0.20), "found": (FOUND, 0.22)}
    for title, (distiller, ap) in finals.items():
        for seed, score in enumerate((ap, ap + 0.02)):
            row = store.add_training(title, seed, "test", "conditions", search.id, distiller)
            outcome = Outcome(Status.COMPLETED, score, metrics={"bbox_mAP": score})
            store.finish_training(row, outcome, f"trained/{title}/student.pth")
    costs = {("student", "r18"): 3.0, ("student", "r34"): 2.0, ("r18", "r34"): 1.0}
    costs[("r34", "r18")] = 1.5
    store.add_costs(
        CostRow(
            "data", a, f"{a}-key", b, f"{b}-key", cost, cost, {}, 100, datetime.now(timezone.utc)
        )
        for (a, b), cost in costs.items()
    )
    store.finish_search(search.id)
    return search.id


def large_search(store: Store, trials: int, name: str = "large") -> None:
    """A search of many random terms and weights, in one insert."""
    search = store.create_search(name, CONFIG, "conditions", 0)
    rng, space = random.Random(0), SearchSpace.preset("extended")
    kinds, now = ("global", "fgbg", "instance", "logits"), datetime.now(timezone.utc)
    rows = []
    for number in range(trials):
        stage = "weights" if number > 0.9 * trials else kinds[number % 4]
        some = kinds[:3] if stage == "weights" else (stage,)
        distiller = Distiller(tuple(space.random(kind, rng) for kind in some))
        draw = rng.random()
        status = (
            Status.REJECTED if draw < 0.1 else Status.STOPPED if draw < 0.2 else Status.COMPLETED
        )
        good = sum(term.distance == "pearson" for term in distiller.terms)
        score = 0.1 + 0.1 * rng.random() + 0.1 * good if status is Status.COMPLETED else None
        rows.append(
            {
                "search_id": search.id, "number": number, "asked_after": number,
                "tell_order": number, "stage": stage, "distiller": distiller,
                "notation": str(distiller), "key": distiller.key, "conditions": "conditions",
                "seed": 0, "queued": now, "started": now, "finished": now + timedelta(minutes=1),
                "seconds": 60.0 if score else 5.0, "status": status, "score": score,
                "early_score": 0.05 if status is Status.STOPPED else None,
                "reason": None if score else "loss is NaN", "metrics": {},
            }
        )  # fmt: skip
    with store._engine.begin() as connection:
        connection.execute(insert(Trial), rows)


class Page(HTMLParser):
    """A page's tags, the text of its elements by id of the section, and the rows of its tables."""

    VOID = ("meta", "link", "input", "img", "path", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self._section, self._inside, self._open = "", "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("section", "header"):
            self._section = dict(attributes)["id"] or ""
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")
        if tag not in self.VOID or tag == "path":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        if tag in ("dt", "dd", "p", "h1"):
            self.text[self._section] += " "

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.text[self._section] = self.text.get(self._section, "") + data
        if {"td", "th"} & set(self._open):
            self.rows[self._section][-1][-1] += data

    @property
    def left_open(self) -> list[str]:
        return self._open

    def marks(self, style: str) -> int:
        """The number of dots of a style in the first plot."""
        plots = [i for i, (tag, own) in enumerate(self.tags) if own.get("class") == "plot"]
        end = plots[1] if len(plots) > 1 else len(self.tags)
        first = self.tags[plots[0] : end]
        return sum(tag == "path" and own.get("class") == style for tag, own in first)
