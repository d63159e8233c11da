"""The first screen: which distiller won, by how much, how sure that is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..search.paired import probability_better
from ..space import NONE, Status
from .facts import ALONE, Facts, as_trained, named, points


@dataclass(frozen=True)
class Margin:
    """How far the winner leads. ``seeds``: fresh seeds that both were trained under; 0: one trial
    each. ``lead``: in AP, from -1 to 1; ``probability``: that the winner is better, or None."""

    over: str
    lead: float
    seeds: int
    probability: float | None

    @property
    def text(self) -> str:
        return f"{points(self.lead, signed=True)} AP"

    @property
    def certainty(self) -> str:
        if not self.seeds:
            return "one trial each, under one seed: not confirmed"
        text = f"mean of {self.seeds} fresh seed{'s' * (self.seeds > 1)}"
        if self.probability is None:
            return f"{text}: too few to say how sure"
        return f"{text}; probability that it is better: {self.probability:.2f}"


@dataclass(frozen=True)
class Verdict:
    headline: str
    state: str
    notation: str
    margins: tuple[Margin, ...]
    note: str
    next_command: str
    next_why: str


def verdict(facts: Facts) -> Verdict:
    """What a reader has to know. Without a completed trial it has no winner and no margins."""
    margins = tuple(_confirmed(facts) if facts.search.confirmation else _from_trials(facts))
    command, why = _next(facts)
    best = facts.best
    return Verdict(
        headline=_headline(facts),
        state=" ".join(filter(None, (_state(facts), _compared(facts)))),
        notation="" if best is None else as_trained(best),
        margins=margins,
        note=_note(facts, margins),
        next_command=command,
        next_why=why,
    )


def _headline(facts: Facts) -> str:
    best = facts.best
    if best is None:
        return "No trial has completed yet" if facts.runner else "No trial completed"
    if not best.distiller.active:
        return "No distillation at all won: the student alone is best"
    who = f"the preset {facts.names[best.key]}" if best.key in facts.names else "a found distiller"
    verb = "won" if facts.search.confirmation or facts.search.finished else "leads so far"
    return f"{who[0].upper()}{who[1:]} {verb}: trial {best.number}, proxy AP {points(best.score)}"


def _state(facts: Facts) -> str:
    counts, search = facts.counts, facts.search
    done = ", ".join(f"{counts[s]} {s.value}" for s in Status if counts[s])
    trials = f"{len(facts.trials)} trials ({done})" if facts.trials else "no trials"
    if search.finished is not None:
        return f"Finished {search.finished:%Y-%m-%d %H:%M} UTC; {trials}."
    if facts.runner is not None:
        return f"Still running, by {facts.runner}: this page shows where it stands; {trials}."
    return f"Interrupted: nobody runs the search now, and it has not ended; {trials}."


def _compared(facts: Facts) -> str:
    """What the APs of trials are read against."""
    alone = facts.alone
    known = {ALONE: alone.score if alone else None, "teacher": facts.teacher}
    parts = [f"{name} {points(ap)}" for name, ap in known.items() if ap is not None]
    return f"Proxy APs to compare with: {', '.join(parts)}." if parts else ""


def _confirmed(facts: Facts) -> Iterator[Margin]:
    record: dict[str, Any] = facts.search.confirmation or {}
    winner, *others = record["contenders"]
    alone = next((one for one in others if one["title"] == NONE), None)
    preset = next((one for one in others if one["title"] in _handmade(facts)), None)
    rival = next((one for one in others if one["title"] == record["rival"]), preset)
    for other in (rival, alone):
        if other is not None:
            pairs = list(zip(winner["aps"], other["aps"], strict=False))
            differences = [a - b for a, b in pairs]
            lead = float(np.mean(differences)) if pairs else winner["trial_ap"] - other["trial_ap"]
            over = named(other["title"])
            over = f"the best preset, {over}" if other["title"] in _handmade(facts) else over
            yield Margin(over, lead, len(pairs), probability_better(differences))


def _handmade(facts: Facts) -> set[str]:
    return set(facts.names.values()) - {NONE}


def _from_trials(facts: Facts) -> Iterator[Margin]:
    best = facts.best
    if best is None:
        return
    preset = facts.preset
    rival = facts.found if preset is not None and preset.key == best.key else preset
    for other in (rival, facts.alone):
        if other is not None and other.key != best.key:
            name = facts.title(other)
            over = f"the best preset, {name}" if other is preset else name
            yield Margin(over, (best.score or 0.0) - (other.score or 0.0), 0, None)


def _note(facts: Facts, margins: tuple[Margin, ...]) -> str:
    if facts.best is None:
        return ""
    if not margins:
        return (
            "The search scored neither the student alone nor a preset: there is no margin to say."
        )
    if facts.search.confirmation is None:
        lucky = "The best of many trials is the luckiest of many, and its score is too high."
        if facts.section("confirm"):
            return f"{lucky} Its confirmation under fresh seeds is still to come."
        return f"{lucky} A search with the section confirm trains the best again under fresh seeds."
    weak = [m.over for m in margins if m.probability is None or m.probability < 0.95]
    if weak:
        return f"Against {' and '.join(weak)} the lead is not sure: more seeds would decide."
    return "The lead is larger than what other seeds change."


def _next(facts: Facts) -> tuple[str, str]:
    name = shlex.quote(facts.search.name)
    if facts.best is None:
        return f"detkds trials {name}{facts.place}", "to see why no trial has completed"
    trained = [t for t in facts.trainings if t.name == "found" and t.checkpoint and t.score]
    if facts.search.finished is None:
        why = "to follow it" if facts.runner else "to see where it stands"
        again = "" if facts.runner else "; the command that started it goes on with --resume"
        return f"detkds watch {name}{facts.place}", why + again
    if trained:
        why = f"to take the distiller elsewhere; the trained student is {trained[0].checkpoint}"
    elif facts.title(facts.best) == ALONE:
        why = "to keep this result: it says that the student is best trained alone"
    else:
        why = "then train your student in full: detkds train CONFIG --distiller FILE"
    return f"detkds export {name}{facts.place} --out {name}-best.json", why
