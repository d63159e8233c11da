"""A model's own code: what is hashed, and what is left to a version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from detkds.detectors import user_code
from detkds.settings import Model

HEAD = """
import numpy as np
from mmdet.models.dense_heads import RetinaHead
from .losses import weight

class MyHead(RetinaHead):
    def forward(self, x):
        from mine_tools import late
        return super().forward(x)
"""
CONFIG = 'from mine.head import MyHead\nmodel = dict(type="RetinaNet", bbox_head=dict(type=MyHead))'


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("mine")]:
        monkeypatch.delitem(sys.modules, name)  # of the test before, in another folder
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "head.py").write_text(HEAD)
    (tmp_path / "mine" / "losses.py").write_text("weight = 1")
    (tmp_path / "mine" / "unused.py").write_text("")
    (tmp_path / "mine_tools.py").write_text("late = 1")
    (tmp_path / "lazy.py").write_text(CONFIG)
    (tmp_path / "text.py").write_text(
        'custom_imports = dict(imports=["mine.head"])\n'
        'model = dict(type="RetinaNet", bbox_head=dict(type="MyHead"))'
    )
    return tmp_path


@pytest.mark.parametrize(
    "model",
    [
        {"config": "lazy.py"},
        {"config": "text.py"},
        {"config": {"type": "RetinaNet"}, "imports": ["mine.head"]},
        {"config": {"type": "mine.head.MyHead"}},
    ],
)
def test_a_change_of_any_own_file_counts(files: Path, model: dict) -> None:
    before = user_code(Model(**model))
    assert set(before) == {"mine", "mine.head", "mine.losses", "mine_tools"}
    for name in ("mine/head.py", "mine/losses.py", "mine_tools.py", "mine/__init__.py"):
        file = files / name
        text = file.read_text()
        file.write_text(text + "\n# changed")
        assert user_code(Model(**model)) != before, name
        file.write_text(text)
    (files / "mine" / "unused.py").write_text("# changed")
    assert user_code(Model(**model)) == before


def test_installed_packages_count_by_their_version() -> None:
    import mmdet

    assert user_code(Model(config="detkds::retinanet_r18_thin.py")) == {}
    found = user_code(Model(config={"type": "mmdet.models.RetinaNet"}, imports=["absent_module"]))
    assert found == {"mmdet.models": ".".join(mmdet.__version__.split(".")[:2])}
