"""``detkds report`` as a user runs it: the page it writes, and its wrong uses in one line."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from detkds.db import Store
from detkds.space import Distiller, Outcome
from stored_search import Page, add, finished_search


@pytest.fixture
def run(command):
    """Run the command beside a folder for a search."""
    Path("runs/cells").mkdir(parents=True)
    return command


def store() -> Store:
    return Store("sqlite:///runs/cells/detkds.db")


def test_the_page_lies_in_the_work_folder(run):
    with store() as opened:
        finished_search(opened)
    assert run("report", "cells") == (0, "6 trials, written to runs/cells/cells.html\n")
    page = Page(Path("runs/cells/cells.html").read_text("utf-8"))
    assert "A found distiller won" in page.text["verdict"]
    assert "Next: detkds export cells --out" in page.text["verdict"]


def test_the_next_command_leads_to_the_same_store(run):
    with store() as opened:
        finished_search(opened)
    place = ["--work-dir", "runs/cells"]
    assert run("report", "cells", *place, "--out", "page.html")[0] == 0
    command = Page(Path("page.html").read_text("utf-8")).text["verdict"].partition("Next: ")[2]
    command = command.partition(" to take")[0].split()
    assert command[:2] == ["detkds", "export"]
    assert run(*command[1:])[0] == 0
    assert Distiller.from_json("cells-best.json").provenance["trial"] == 2


def test_a_search_without_a_completed_trial_has_nothing_to_report(run):
    with store() as opened:
        search = opened.create_search("cells", {}, "conditions", 0)
    nothing = "detkds: search 'cells' has no completed trial: nothing to report; "
    assert run("report", "cells") == (2, f"{nothing}no trial has been asked for yet\n")
    with store() as opened:
        trial = add(opened, search.id, 0, "global: catt, l1 × 5", "global")
        opened.tell_trial(trial, Outcome.rejected("loss is NaN"), 0)
    assert run("report", "cells") == (2, f"{nothing}1 of 1 trials: loss is NaN\n")
    assert not Path("runs/cells/cells.html").exists()
    with store() as opened:
        add(opened, search.id, 1, "global: catt, l2 × 5", "global")
        with opened.held("cells"):
            assert run("report", "cells")[0] == 0, "a search in progress has a page that says so"
    page = Page(Path("runs/cells/cells.html").read_text("utf-8"))
    assert "Still running, by " in page.text["verdict"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("report cels --work-dir runs/cells", "holds no search 'cels': did you mean cells?"),
        ("report cells --out nowhere/page.html", "--out nowhere/page.html: its folder does not"),
        ("report cells --out runs", "--out runs: it is a folder; name a file in it"),
        ("report cells --work-dir runs/other --out p.html", "there is no such file"),
        ("report cels", "can't use 'sqlite:///runs/cels/detkds.db': there is no such file"),
    ],
)
def test_wrong_uses(run, arguments, says):
    with store() as opened:
        finished_search(opened)
    code, said = run(*arguments.split())
    assert (code, said.count("\n")) == (2, 1)
    assert says in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(run, tmp_path):
    with store() as opened:
        finished_search(opened)
    (tmp_path / "closed").mkdir(mode=0o500)
    code, said = run("report", "cells", "--out", "closed/page.html")
    assert (code, said) == (
        2,
        "detkds: --out closed/page.html: can't write it: Permission denied\n",
    )


def test_a_store_of_a_newer_version(run):
    with store() as opened:
        finished_search(opened)
    with sqlite3.connect("runs/cells/detkds.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    code, said = run("report", "cells")
    assert (code, said.count("\n")) == (2, 1)
    assert "a newer version may have written it" in said
