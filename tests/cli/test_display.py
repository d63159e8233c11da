"""What a search draws on a terminal, and the lines that it prints where there is none."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import simulated_search
from detkds.cli import display as display_module
from detkds.cli import tables
from detkds.cli.display import LINE_EVERY, SearchDisplay
from detkds.cli.standing import LEADERS
from detkds.db import Store, TrialRow, ranked
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, Status
from rich.console import Console
from terminal import Terminal

PLANNED = 2 * (2 + 2 * 1) + 4
STATES = (
    Status.COMPLETED,
    Status.STOPPED,
    Status.REJECTED,
    Status.FAILED,
    Status.RUNNING,
)
ENDED = (Status.REJECTED, Status.FAILED)
DASHBOARD = "Ray dashboard: http://127.0.0.1:8265"


def stored(folder: Path) -> list[TrialRow]:
    with Store(f"sqlite:///{folder}/detkds.db") as store:
        return store.trials(None)


def summary(trials: list[TrialRow]) -> str:
    """How the display begins for these trials: the counts, without the time left."""
    counts = [sum(trial.status is state for trial in trials) for state in STATES]
    completed, stopped, rejected, failed, running = counts
    return (
        f"{completed + stopped}/{PLANNED} trials done, {stopped} of them stopped early, "
        f"{rejected} rejected, {failed} failed, {running} running; "
    )


def leader(trials: list[TrialRow]) -> str:
    """How the display ends for these trials: the best of them."""
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        return "no completed trial yet"
    best = max(scored, key=lambda trial: trial.score or 0.0)
    return f"best AP {100 * best.score:.1f} (trial {best.number}): {in_one_line(best)}"


def in_one_line(trial: TrialRow) -> str:
    return trial.notation.replace("\n", "; ")


def stage_rows(screen: list[str]) -> dict[str, str]:
    """The rows of the stages on a screen, by stage."""
    rows = [re.fullmatch(r"(?:✓ |  )(global|logits|weights)\b.*", line) for line in screen]
    return {row[1]: row[0] for row in rows if row}


def test_a_terminal_shows_every_state_of_a_search(tmp_path):
    shown = Terminal([sys.executable, simulated_search.__file__, str(tmp_path)])
    screen = shown.wait_for(lambda screen: "warm-up" in screen[-1])
    assert screen[0] == DASHBOARD
    rows = [re.sub("[━╸╺]+", "━", line).split() for line in screen[1:]]
    assert rows == [
        ["training", "iterations"],
        ["teacher", "━", "3/8"],
        ["warm-up", "━", "waiting"],
    ]
    for number in count(1):
        (tmp_path / f"after-{number - 1}").touch()
        shown.wait_for(lambda screen: (tmp_path / f"at-{number}").exists())  # noqa: B023
        trials = stored(tmp_path)
        screen = shown.wait_for(lambda screen: agrees(screen, trials))  # noqa: B023
        assert screen[0] == DASHBOARD, "the display redraws in place, below what was said"
        assert re.fullmatch("━*╺?━*", screen[2])
        assert ["stage", "AP", "trial", "distiller"] in [line.split() for line in screen]
        rows = stage_rows(screen)
        for stage, row in rows.items():
            best = ranked([trial for trial in trials if trial.stage == stage])[:1]
            (found,) = re.findall(r"(\d+\.\d) +(\d+) +(.*)", row) or [None]
            assert found == (said(best[0]) if best else None)
        reasons = Counter(trial.why for trial in trials if trial.status in ENDED)
        for why, number in reasons.most_common(1):
            assert f"rejected or failed, most often ({number}): {why}" in screen
        curve = [line for line in screen if line.startswith("best so far  ")]
        known = sorted((t for t in trials if t.score is not None), key=lambda t: t.tell_order)
        assert len(curve) == bool(known)
        if known:
            first, best = (100 * one.score for one in (known[0], ranked(trials)[0]))
            assert curve[0].endswith(f" {first:.1f} → {best:.1f}")
        at_work = [line for line in screen if line.startswith("running  ")]
        running = [trial for trial in trials if trial.status is Status.RUNNING]
        assert len(at_work) == len(running)
        for line, trial in zip(at_work, running, strict=True):
            assert re.fullmatch(
                rf"running  {trial.number} {trial.stage} for \d+ s on host cpu, iteration 3/8, "
                rf"loss 0.5, 90 s left: {re.escape(in_one_line(trial))}",
                line,
            )
        if "weights" in rows and all(row.startswith("✓") for row in rows.values()):
            break
    board = screen[screen.index(rows["logits"]) :]
    leaders = ranked([trial for trial in trials if trial.stage == "logits"])[:LEADERS]
    assert 1 < len(leaders) < len([trial for trial in trials if trial.stage == "logits"])
    for line, trial in zip(board, leaders, strict=False):
        assert line.removeprefix("✓ logits").split(maxsplit=2) == [*said(trial)]
    counts = {state: sum(trial.status is state for trial in trials) for state in STATES}
    assert counts[Status.COMPLETED] + counts[Status.STOPPED] == PLANNED
    assert counts[Status.STOPPED] > 0
    assert counts[Status.REJECTED] > 0
    assert counts[Status.FAILED] == 1
    assert screen[1].endswith("the trials are done")
    shown.press("\x03")  # Ctrl-C
    assert shown.wait() != 0
    assert f"interrupted; go on with: {simulated_search.CONTINUE}" in shown.screen


def said(trial: TrialRow) -> tuple[str, ...]:
    """A leader's AP, number and distiller."""
    return f"{100 * trial.score:.1f}", str(trial.number), in_one_line(trial)


def agrees(screen: list[str], trials: list[TrialRow]) -> bool:
    shown = [line for line in screen if line]  # a display that shrinks leaves an empty line
    return len(shown) > 2 and shown[1].startswith(summary(trials)) and shown[-1] == leader(trials)


@pytest.fixture
def log(monkeypatch) -> io.StringIO:
    """What the display prints where there is no terminal."""
    console = Console(file=io.StringIO(), width=140)
    monkeypatch.setattr(display_module, "console", console)
    return console.file


def lines(log: io.StringIO) -> list[str]:
    return log.getvalue().splitlines()


def test_without_a_terminal_lines_are_few_and_whole(log, monkeypatch, tmp_path):
    now = 1000.0
    monkeypatch.setattr(display_module, "time", SimpleNamespace(monotonic=lambda: now))
    printed: list[tuple[float, str]] = []

    def changed() -> None:
        display.search(session, session.controller.planned)
        printed.extend((now, line.partition("; ")[2]) for line in lines(log)[len(printed) :])

    with Store(f"sqlite:///{tmp_path}/detkds.db") as store, SearchDisplay("") as display:
        search = store.create_search("a", {}, "conditions", 0)
        controller = Controller(simulated_search.SPACE, simulated_search.SETTINGS, seed=0)
        session = Session(controller, store, search.id, "conditions", 0, changed)
        changed()
        while not session.done:
            candidate = session.ask()
            if candidate is not None:
                session.started(candidate, "host", "cpu")
                now += 25
                session.tell(candidate, simulated_search.score(candidate))
        trials = store.trials(None)
    *between, _ = pairwise(printed)
    leaders = [(earlier[1] != later[1], later[0] - earlier[0]) for earlier, later in between]
    assert all(leads or passed > LINE_EVERY for leads, passed in leaders)
    assert any(leads and passed < LINE_EVERY for leads, passed in leaders), "told at once"
    assert any(not leads for leads, passed in leaders), "a line a minute"
    assert len(printed) < len(trials), "not one a trial"
    assert lines(log)[0] == f"{summary([])}time left unknown yet; no completed trial yet"
    assert lines(log)[-1] == f"{summary(trials)}the trials are done; {leader(trials)}"


def test_scores_of_trials_stand_beside_those_of_the_teacher_and_the_student_alone(log, tmp_path):
    search = Search(algorithm="random", divide=False, trials=2, start=["none"])
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store, SearchDisplay("") as display:
        row = store.create_search("a", {}, "conditions", 0)
        controller = Controller(simulated_search.SPACE, search, 0, [Distiller(())])
        session = Session(controller, store, row.id, "conditions", 0, teacher=0.551)
        for ap in (0.086, 0.2):
            candidate = session.ask()
            assert candidate is not None
            session.tell(candidate, Outcome(Status.COMPLETED, ap))
        display.search(session, controller.planned)
    assert lines(log)[-1].endswith("; for comparison: student alone AP 8.6, teacher AP 55.1")


def test_without_a_terminal_the_end_of_a_training_is_a_line_at_once(log):
    with SearchDisplay("") as display:
        display.dashboard("")
        display.training(["pkd", "none"], [(0, 0), (2, 9)])
        display.training(["pkd", "none"], [(1, 9), (3, 9)])
        display.training(["pkd", "none"], [(9, 9), (9, 9)])
        display.training(["pkd", "none"], [(9, 9), (9, 9)])
    assert lines(log) == ["training: pkd waiting, none 2/9", "training: pkd 9/9, none 9/9"]


def test_a_log_on_a_full_disk_ends_no_search(monkeypatch):
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)  # type: ignore[arg-type]
    monkeypatch.setattr(display_module, "console", Console(file=full, width=140))
    with SearchDisplay("detkds search a --resume") as display:
        display.say("a line")
        display.training(["teacher"], [(3, 3)])
    with pytest.raises(OSError, match="No space left"):
        full.write("a line")


def test_an_interrupted_training_says_how_to_continue(log):
    with pytest.raises(KeyboardInterrupt), SearchDisplay("detkds train x --distiller y"):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), SearchDisplay(""):
        raise KeyboardInterrupt
    assert lines(log) == ["interrupted; go on with: detkds train x --distiller y"]


def test_the_table_of_trials_says_which_were_stopped_and_why(monkeypatch, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(tables, "console", console)
    reason = "stopped halfway with an AP of 0.0312"
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("a", {}, "conditions", 0)
        candidate = Candidate(0, "global", Distiller.parse("global: mask, l1 × 2"))
        trial = store.add_trial(search.id, candidate, 0, "conditions", 0)
        outcome = Outcome(Status.STOPPED, early_score=0.0312, reason=reason)
        store.tell_trial(trial, outcome, tell_order=0)
        (record,) = store.trial_records()
    tables.trial_table([record])
    (row,) = (line for line in lines(console.file) if "global" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["a", "0", "global", "stopped", "", f"global: mask, l1 × 2 ({reason})"]
    assert (record["score"], record["early_score"]) == (None, 0.0312)
