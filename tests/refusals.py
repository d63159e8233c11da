"""What the wrong uses share: a small set of files, and a command that is refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from detkds.data import ShapesFiles, make_shapes


@pytest.fixture(scope="session")
def shared_shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=4, test=4, size=64)


@pytest.fixture
def shapes(shared_shapes: ShapesFiles, tmp_path: Path) -> ShapesFiles:
    """A copy, in the folder ``cells`` of the current one, that a test may spoil."""
    source = Path(shared_shapes.train).parent
    shutil.copytree(source, tmp_path / "cells")
    files = {
        name: tmp_path / "cells" / Path(getattr(shared_shapes, name)).relative_to(source)
        for name in ("train", "val", "test", "images")
    }
    return ShapesFiles(**files)


def right_config(shapes: ShapesFiles) -> list[str]:
    """The arguments of a config on these files that is right but for what a test adds."""
    return [
        "custom", "--work-dir", "run", "--cfg-options",
        f"data.train.annotations={shapes.train}", f"data.train.images={shapes.images}",
        f"data.test.annotations={shapes.test}", f"data.test.images={shapes.images}",
        "student.cfg_options.model.bbox_head.num_classes=4",
        "teacher.cfg_options.model.bbox_head.num_classes=4",
        "proxy.train_images=8", "proxy.val_images=4", "data.image_size=(64,64)",
    ]  # fmt: skip


@pytest.fixture
def custom(shapes: ShapesFiles) -> list[str]:
    return right_config(shapes)


@pytest.fixture
def refused(command: Callable[..., tuple[int, str]], tmp_path: Path) -> Callable[..., str]:
    """Run the command; returns the one line with which it is refused, and nothing is left."""

    def run(*arguments: str) -> str:
        before = set(tmp_path.rglob("*"))
        code, said = command(*arguments)
        assert code == 2, said
        assert said.startswith("detkds: "), said
        assert said.count("\n") == 1, said
        assert not set(tmp_path.rglob("*")) - before
        return said.removeprefix("detkds: ").strip()

    return run
