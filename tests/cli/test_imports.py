"""What every command loads: a command that only looks starts without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from detkds.data import make_shapes
from detkds.db import Store
from detkds.space import Candidate, Distiller, Outcome, Status

HEAVY = ("torch", "mmdet", "mmengine", "ray", "sqlalchemy", "pandas", "scipy", "rich", "numpy")
#: Runs ``detkds`` and says on the last line of stderr what it has loaded.
SCRIPT = f"""
import atexit, sys
from detkds.cli import main
loaded = lambda: print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
atexit.register(loaded)
main()
"""
#: A command, its exit code, and which of the heavy modules it loads.
COMMANDS = [
    ("--help", 0, "rich"),
    ("search --help", 0, "rich"),
    ("space", 0, "rich"),
    ("space --json", 0, ""),
    ("show pkd", 0, ""),
    ("papers", 0, "rich"),
    ("papers mtpd/7 --json", 0, ""),
    ("trials", 0, "sqlalchemy rich"),
    ("trials quickstart --csv trials.csv", 0, "sqlalchemy pandas numpy"),
    ("export quickstart --out best.json", 0, "sqlalchemy"),
    ("searches", 0, "sqlalchemy rich"),
    ("export quickstart --card best.md", 0, "sqlalchemy numpy"),
    ("report quickstart", 0, "sqlalchemy numpy"),
    ("clean quickstart", 0, "sqlalchemy"),
    ("delete quickstart", 0, "sqlalchemy"),
    ("log quickstart 0", 0, "sqlalchemy"),
    ("watch quickstart --once", 0, "sqlalchemy rich"),
    ("proxy shapes/train.json --train 5 --val 3 --out proxy", 0, "rich numpy"),
    ("teachers --costs costs.json --student s", 0, "rich"),
    ("teachers --costs costs.json --student s --json", 0, ""),
    # A wrong config is refused before torch is loaded.
    ("search quickstart --cfg-options trial.epochs=0", 2, "mmengine rich numpy"),
    ("train quickstart --distiller pdk", 2, ""),
    ("train paper:crosskd/7/fgd", 2, ""),
    ("teachers quickstart --algorithm sgb", 2, ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which every command finds its input: real files and a real database."""
    folder = tmp_path_factory.mktemp("inputs")
    files = make_shapes(folder / "shapes", train=12, val=4, test=4, size=64)
    Path(files.train).rename(folder / "shapes" / "train.json")
    model = {"config": "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"}
    proxy = {"train_images": 8, "val_images": 4}
    config = {"student": model, "teacher": model, "proxy": proxy}
    (folder / "runs").mkdir()
    for name in ("runs/detkds.db", "runs/quickstart/detkds.db"):
        (folder / name).parent.mkdir(exist_ok=True)
        with Store(f"sqlite:///{folder / name}") as store:
            search = store.create_search("quickstart", config, "conditions", 0)
            candidate = Candidate(0, "global", Distiller.parse("global: catt, l1 × 5"))
            trial = store.add_trial(search.id, candidate, 0, "conditions", 0)
            metrics = {"bbox_mAP": 0.2, "bbox_mAP_50": 0.4}
            store.tell_trial(trial, Outcome(Status.COMPLETED, score=0.2, metrics=metrics), 0)
    costs = {"s": {"a": 3, "b": 2}, "a": {"b": 1}, "b": {"a": 1}}
    document = {"costs": costs, "scores": {"a": 40, "b": 41}}
    (folder / "costs.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(("command", "code", "loads"), COMMANDS, ids=[c for c, *_ in COMMANDS])
def test_a_command_loads_what_it_needs_and_no_more(folder, command, code, loads):
    arguments = [sys.executable, "-c", SCRIPT, *command.split()]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert code or done.stdout
    assert set(done.stderr.splitlines()[-1].split()) == set(loads.split())
