"""``detkds trials`` and ``detkds export`` on a stored search, as a user runs them."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pandas
import pytest
from detkds.cli import listing
from detkds.db import Store
from detkds.report import Facts, model_card
from detkds.report.card import as_code
from detkds.space import Distiller, WrongUse
from stored_search import FOUND, NASTY, add, finished_search


@pytest.fixture
def run(command):
    """Run the command beside a finished search."""
    Path("runs/cells").mkdir(parents=True)
    with Store("sqlite:///runs/cells/detkds.db") as store:
        finished_search(store)
    return command


def numbers(said: str) -> list[int]:
    """The numbers of the trials in a table."""
    return [int(number) for number in re.findall(r"^│ cells +│ (\d+)", said, re.MULTILINE)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("--top 2", [2, 1]),
        ("--sort score", [2, 1, 0, 3, 4, 5]),
        ("--sort seconds --top 3", [0, 1, 2]),
        ("--status completed --sort score", [2, 1, 0]),
        ("--stage logits", [3, 4, 5]),
        ("--stage logits --status rejected", [4]),
        ("--stage start --top 1", [1]),
    ],
)
def test_trials_are_chosen_and_sorted(run, options, expected):
    code, said = run("trials", "cells", *options.split())
    assert code == 0, said
    assert numbers(said) == expected
    assert said.count("★") == (2 in expected)


def test_the_csv_holds_the_chosen_trials(run):
    code, said = run("trials", "cells", "--csv", "t.csv", "--top", "2", "--status", "completed")
    assert (code, said) == (0, "2 trials written to t.csv\n")
    assert list(pandas.read_csv("t.csv")["score"]) == [0.31, 0.26]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--status complete", "--status complete: did you mean completed?"),
        ("--stage logit", "--stage logit: did you mean logits?"),
        ("--sort scores", "--sort scores: did you mean score?"),
        ("--top 0", "--top 0: list at least 1 trial"),
    ],
)
def test_wrong_choices(run, options, says):
    assert run("trials", "cells", *options.split()) == (2, f"detkds: {says}\n")


def test_every_column_to_sort_by_is_in_the_records(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        finished_search(store)
        records = store.trial_records()
    for column in listing.SORTS:
        assert len(listing.listed(records, sort=column)) == len(records)
    with pytest.raises(WrongUse, match="there is no trial"):
        listing.listed([], stage="logits")


def test_an_optuna_study_holds_every_trial(run):
    code, said = run("export", "cells", "--optuna", "study.log")
    assert (code, said) == (0, "6 trials in the study 'cells': optuna-dashboard study.log\n")
    backend = optuna.storages.journal.JournalFileBackend("study.log")
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name="cells", storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 3 + ["PRUNED", "FAIL", "FAIL"]
    assert study.best_value == 0.31
    assert study.best_trial.user_attrs["distiller"] == str(FOUND)
    assert study.best_trial.params["global.distance"] == "l1"
    assert [t.user_attrs["reason"] for t in study.trials[4:]] == [NASTY, NASTY]
    again = run("export", "cells", "--optuna", "study.log")
    assert again[0] == 2
    assert "it holds a study 'cells' already" in again[1]
    assert run("export", "cells", "--optuna", "sqlite:///study.db")[0] == 0
    assert optuna.load_study(study_name="cells", storage="sqlite:///study.db").best_value == 0.31


def test_an_optuna_study_of_a_search_in_progress(run):
    with Store("sqlite:///runs/cells/detkds.db") as store:
        search = store.create_search("now", {}, "conditions", 0)
        store.start_trial(add(store, search.id, 0, FOUND, "global"), "host", "cpu")
        add(store, search.id, 1, "logits: norm_n, l2 × 5", "global")
    assert run("export", "now", "--work-dir", "runs/cells", "--optuna", "now.log")[0] == 0
    backend = optuna.storages.journal.JournalFileBackend("now.log")
    study = optuna.load_study(study_name="now", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "WAITING"]


def test_a_card_lies_beside_the_distiller(run):
    code, said = run("export", "cells", "--out", "best.json", "--card", "best.md")
    assert code == 0, said
    assert Distiller.from_json("best.json").key == FOUND.key
    text = Path("best.md").read_text("utf-8")
    assert "# Student of the search `cells`" in text
    assert str(FOUND) in text
    assert "| `found` | 2 | 23.0 ± 1.4 | – | – | – | – | – |" in text
    assert "- `found`: `trained/found/student.pth`" in text
    assert "| lead over `the best preset, pkd` | +4.0 AP" in text


def test_names_do_not_break_a_card(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        finished_search(store, "a`b|<b>\n# c")
        text = model_card(Facts.read(store, "a`b|<b>\n# c"))
    assert text.startswith("# Student of the search `a'b/<b> # c`\n")
    assert as_code("x") == "`x`"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("export cells", "export: say what to write: --out, --card or --optuna"),
        ("export cells --optuna study.json", "give a file that ends with .log"),
        ("export cells --optuna nowhere/s.log", "--optuna nowhere/s.log: its folder does not"),
        ("export cells --optuna nosuchdb://x", "--optuna nosuchdb://x: can't write it"),
        ("export cells --card nowhere/card.md", "--card nowhere/card.md: its folder does not"),
    ],
)
def test_wrong_exports(run, arguments, says):
    code, said = run(*arguments.split())
    assert (code, said.count("\n")) == (2, 1), said
    assert says in said


def test_without_a_folder_all_databases_in_runs_are_checked_and_upgraded(command):
    code, said = command("db", "check")
    assert (code, "no database in " in said) == (2, True), said
    for name in ("cells", "leaves"):
        Path("runs", name).mkdir(parents=True)
        with Store(f"sqlite:///runs/{name}/detkds.db") as store:
            finished_search(store, name)
    code, said = command("db", "check")
    assert code == 0, said
    assert said.count("  no faults") == 2
    assert "sqlite:///runs/leaves/detkds.db: schema " in said
    code, said = command("db", "upgrade")
    assert (code, said.count("up to date already")) == (0, 2), said
    code, said = command("db", "backup", "--out", "copy.db")
    assert (code, "runs/ has 2 databases" in said) == (2, True), said
    assert not Path("copy.db").exists()
    code, said = command("db", "backup", "--out", "copy.db", "--work-dir", "runs/cells")
    assert (code, Path("copy.db").is_file()) == (0, True), said
