"""The first screens: the display of a search at any width, and what ``--help`` says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import simulated_search
from detkds.cli import display as display_module
from detkds.cli.display import SearchDisplay
from detkds.db import Store
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import SearchSpace
from rich.console import Console
from terminal import drawn


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_line_of_the_display_is_broken(tmp_path: Path, monkeypatch, columns):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=columns, height=50)
    monkeypatch.setattr(display_module, "console", console)
    space = SearchSpace.preset()
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("cells", {}, "conditions", 0)
        controller = Controller(space, Search(population=2, iterations=1, weights=4), 0)
        session = Session(controller, store, search.id, "conditions", 0)
        with SearchDisplay("") as display:
            for _ in range(6):
                candidate = session.ask()
                assert candidate is not None
                session.started(candidate, "host", "cpu")
                session.tell(candidate, simulated_search.score(candidate))
            session.ask()
            display.search(session, controller.planned)
            display.training(["pkd", "none"], [(4, 9), (0, 0)])
    lines = drawn(screen.getvalue(), columns)
    assert " 0 running, 1 waiting for a worker; " in " ".join(lines)
    bar, *trainings = (line for line in lines if "━" in line)
    assert set(bar) <= set("━╸╺ "), bar
    assert [line.split()[0] for line in trainings] == ["pkd", "none"]
    assert [line.split()[-1] for line in trainings] == ["4/9", "waiting"]
    (head,) = (line for line in lines if line.startswith("stage"))
    assert head.split() == ["stage", "AP", "trial", "distiller"]
    assert all(len(line) <= columns for line in lines)


@pytest.mark.parametrize(
    ("use", "default"),
    [
        ("search", "[default: runs/<config>]"),
        ("search", "[default: the config's]"),
        ("train", "[default: bgs]"),
        ("teachers", "[default: all]"),
        ("report", "[default: <work-dir>/<name>.html]"),
    ],
)
def test_help_shows_the_defaults(command, monkeypatch, use, default):
    monkeypatch.setenv("COLUMNS", "200")
    code, said = command(use, "--help")
    assert code == 0
    assert default in said
