"""``detkds delete`` deletes a search, and nothing that another search has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from detkds.db import Store
from detkds.db.lease import holder
from detkds.space import Candidate, Outcome, Status
from stored_search import CONFIG, FOUND, PKD, add, finished_search

DATABASE = "sqlite:///runs/cells/detkds.db"
DONE = Outcome(Status.COMPLETED, score=0.25)


def trained(store: Store, name: str, *searches: int | None) -> Path:
    """The folder of a training that these searches have, and one trained without a search."""
    folder = Path(f"runs/cells/{name}/stage")
    folder.mkdir(parents=True)
    (folder / "student.pth").write_bytes(bytes(500_000))
    (folder / "outcome.json").write_text(DONE.to_json())
    for search in searches:
        row = store.add_training(name, 0, "test", "conditions", search)
        store.finish_training(row, DONE, str(folder / "student.pth"))
    return folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A finished search, two later ones that copied one score of it, and trainings."""
    monkeypatch.chdir(tmp_path)
    Path("runs/cells").mkdir(parents=True)
    with Store(DATABASE) as store:
        cells = finished_search(store)
        source = store.trials(cells)[1]
        assert source.outcome is not None
        for name in ("later", "last"):
            search = store.create_search(name, CONFIG, "conditions", 7).id
            store.tell_trial(add(store, search, 0, PKD, "start"), source.outcome, 0, source.id)
        later = store.search("later").id
        found = {"own": trained(store, "own", cells)}
        found["later"] = trained(store, "later", cells, later)
        found["train"] = trained(store, "train", cells, None)
        # Interrupted: its folder is known from its start on.
        found["begun"] = trained(store, "begun")
        checkpoint = str(found["begun"] / "student.pth")
        store.add_training("begun", 0, "test", "conditions", cells, checkpoint=checkpoint)
        foreign = Path("runs/cells/foreign")
        foreign.mkdir()
        (foreign / "notes.txt").touch()
        store.add_training("x", 0, "test", "c", cells, checkpoint=str(foreign / "student.pth"))
        found["foreign"] = foreign
    for ending in ("json", "html", "detections.json"):
        Path(f"runs/cells/cells.{ending}").touch()
    Path("runs/cells/.running-cells").mkdir()  # left by a driver that was killed
    return found


def test_it_says_what_it_would_delete_and_does_so_when_told(folders, command):
    before = sorted(Path("runs").rglob("*"))
    code, said = command("delete", "cells")
    assert code == 0, said
    assert sorted(Path("runs").rglob("*")) == before
    lines = [line.strip() for line in said.splitlines()]
    assert "0.0 MB  runs/cells/cells.json: its distiller" in lines
    assert "0.0 MB  runs/cells/cells.detections.json: what its detectors find" in lines
    assert any(line.startswith("0.0 MB  runs/cells/.running-cells: ") for line in lines)
    assert "0.5 MB  runs/cells/own/stage: the training own" in lines
    assert "stays  runs/cells/later/stage: the search 'later' used it, too" in lines
    assert "stays  runs/cells/train/stage: detkds train used it, too" in lines
    assert "6 trials and 12 trainings in sqlite:///runs/cells/detkds.db" in said
    assert "3 scores are lost" in said
    assert "1 stay with searches that have copied them" in said
    assert lines[-1] == "the search 'cells', 1.0 MB of files: --yes deletes all of this"

    code, said = command("delete", "cells", "--yes")
    assert (code, said.splitlines()[-1]) == (0, "the search 'cells', 1.0 MB of files: deleted")
    assert not folders["own"].parent.exists()
    assert not folders["begun"].exists()
    assert all(folders[name].exists() for name in ("later", "train", "foreign"))
    assert not list(Path("runs/cells").glob("cells.*"))
    code, said = command("delete", "cells")
    assert code == 2
    assert "holds no search 'cells'" in said


def test_scores_that_other_searches_copied_stay_and_are_found(folders, command):
    command("delete", "cells", "--yes")
    with Store(DATABASE) as store:
        assert [search.name for search in store.searches()] == ["later", "last"]
        (first,), (second,) = (store.trials(search.id) for search in store.searches())
        assert first.score == second.score == 0.26
        assert (first.reused_from, second.reused_from) == (None, first.id)
        known = store.scored("conditions", PKD.key)
        assert known is not None
        assert known.id == first.id
        assert store.scored("conditions", FOUND.key) is None, "nobody has copied it"
    assert command("db", "check", "--work-dir", "runs/cells")[0] == 0


def test_a_copy_whose_original_is_deleted_meanwhile_is_the_original(folders, command):
    with Store(DATABASE) as store:
        later = store.search("later").id
        source = store.trials(store.search("cells").id)[2]
        copy = store.add_trial(later, Candidate(1, "start", FOUND), 1, "conditions", 7)
        command("delete", "cells", "--yes")
        assert source.outcome is not None
        store.tell_trial(copy, source.outcome, 1, source.id)
        known = store.scored("conditions", FOUND.key)
        assert known is not None
        assert known.id == copy


def test_a_search_that_runs_is_not_deleted(folders, command):
    with Store(DATABASE) as store, store.held("cells"):
        code, said = command("delete", "cells", "--yes")
    assert code == 2
    assert said.startswith("detkds: name: another process runs the search 'cells': ")
    assert f"{holder()}, process {os.getpid()}, since " in said
    assert folders["own"].exists()
    with Store(DATABASE) as store:
        assert store.find_search("cells") is not None
