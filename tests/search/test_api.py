"""The library from Python: a whole tiny search, its result, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys

import detkds
import pytest
from detkds.db import Store
from detkds.space import Distiller, WrongUse
from stored_search import CONFIG, OUTCOMES, finished_search


def test_trials_are_a_data_frame_in_one_call(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        finished_search(store)
        finished_search(store, "other")
    table = detkds.trials("cells", work_dir=tmp_path)
    assert list(table["status"]) == [outcome.status.value for _, _, outcome in OUTCOMES]
    assert table["score"].max() == 0.31
    assert len(detkds.trials(storage=f"sqlite:///{tmp_path}/detkds.db")) == 2 * len(OUTCOMES)
    with pytest.raises(WrongUse, match="did you mean cells"):
        detkds.trials("cels", work_dir=tmp_path)


def test_shipped_distillers_load_by_name():
    assert detkds.load_distiller("pkd") == Distiller.parse("global: identity, pearson × 5")
    with pytest.raises(WrongUse, match="did you mean pkd"):
        detkds.load_distiller("pdk")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("quickstrat",), "did you mean quickstart"),
        ((CONFIG,), "name: give the search a name"),
        (("quickstart", {"name": "a/b"}), "a name is no path"),
        (("quickstart", {"cfg_options": ["trial.epochs=0"]}), "trial.epochs"),
        ((CONFIG, {"name": "a", "cfg_options": ["trial.epochs=1"]}), "cfg_options: change the"),
        (({"data": {"synthetic": {}}}, {"name": "a"}), "student"),
    ],
)
def test_wrong_uses_raise_before_anything_is_made(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    config, *options = arguments
    with pytest.raises(WrongUse, match=says):
        detkds.search(config, **(options[0] if options else {}))
    assert list(tmp_path.iterdir()) == []


def test_the_package_and_the_function_have_one_name():
    """Whichever is imported first: a module of the package, or the function."""
    for first in ("import detkds", "import detkds.search.exported, detkds"):
        code = f"{first}; print(callable(detkds.search), detkds.search.__name__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "True detkds.search\n", done.stderr
    assert pickle.loads(pickle.dumps(detkds.search)) is detkds.search
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        detkds.serach  # noqa: B018
