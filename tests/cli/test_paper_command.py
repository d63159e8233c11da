"""A row of a paper as a real command: its distiller and its teachers, on thin detectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from detkds.db import Store

THIN = [
    option
    for section, config in (
        ("student", "detkds::retinanet_r18_thin.py"),
        ("teacher", "detkds::retinanet_r34_thin.py"),
        ("teachers.retinanet_r101", "detkds::retinanet_r34_thin.py"),
        ("teachers.retinanet_x101", "detkds::retinanet_r34_thin.py"),
    )
    for option in (
        f"{section}.config={config}",
        f"{section}.checkpoint=None",
        f"{section}.cfg_options.model.bbox_head.num_classes=4",
    )
]


@pytest.mark.slow
def test_a_row_trains_under_its_teachers_with_its_distiller(tmp_path: Path) -> None:
    options = [o for o in tiny.OPTIONS if not o.startswith("search.")]
    done = tiny.run_here(
        tiny.command(
            *("train", "paper:mtpd/17/mgd-progressive", "--work-dir", tmp_path, "--cfg-options"),
            *(*options, *THIN, "data.train=None", "data.test=None", "data.num_workers=0"),
            *("final.epochs=2", "final.batch_size=16", "teacher.schedule.batch_size=16"),
            "teachers.retinanet_r101.cfg_options.model.backbone.depth=18",
        )
    )
    assert done.returncode == 0, done.stderr
    assert "teachers: retinanet_r101 → retinanet_x101" in done.stdout
    assert "the paper's box AP, paper:mtpd/17/mgd-progressive: 41.4" in done.stdout
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        trained = {one.name: one.distiller for one in store.trainings()}
    stages = [name for name in trained if name.startswith("mgd-progressive")]
    assert len(stages) == 2
    assert {str(trained[name]) for name in stages} == {"mgd: hide_65, l2 × 23"}
