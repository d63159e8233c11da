"""The house rules that a reader of the source can check: who imports whom, and how much at once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import detkds
import pytest

ROOT = Path(detkds.__file__).parent
#: Upper rooms import lower ones, never the reverse, and never their neighbours.
LAYERS = (
    ("cli",),
    ("report", "search"),
    ("workers", "db"),
    ("distillers",),
    ("data",),
    ("detectors",),
    ("settings",),
    ("configs",),
    ("space",),
)
DEPTH = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}
MOST_LINES = 350

#: Room or module, and what importing it must not pull in.
LEAN = {
    "detkds.settings": ("torch", "ray", "mmdet", "sqlalchemy"),
    "detkds.space": ("torch", "ray", "mmdet", "sqlalchemy"),
    "detkds.db": ("torch", "ray", "mmdet"),
    "detkds.search.algorithms": ("torch", "ray", "mmdet", "sqlalchemy"),
    "detkds.search.controller": ("torch", "ray", "mmdet", "sqlalchemy"),
    "detkds.workers.trial": ("ray", "sqlalchemy"),
    "detkds.distillers": ("ray", "sqlalchemy"),
    "detkds.detectors": ("ray", "sqlalchemy"),
}


def package_files() -> list[Path]:
    """The package's Python files, relative to the root: the root's own and those of the rooms."""
    rooms = [path.parent for path in ROOT.glob("*/__init__.py")]
    files = [*ROOT.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))]
    return sorted(file.relative_to(ROOT) for file in files)


def absolute_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def relative_imports(tree: ast.AST, file: Path) -> Iterator[str]:
    """What a file imports from the package, as paths from the root: ``space/errors/WrongUse``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = file.parent.parts
            base = package[: len(package) - node.level + 1]
            module = tuple((node.module or "").split(".")) if node.module else ()
            for alias in node.names:
                yield "/".join((*base, *module, alias.name))


def test_every_room_has_its_layer() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms <= set(DEPTH)
    assert {"cli", "search", "workers", "db", "distillers", "detectors", "space"} <= rooms


@pytest.mark.parametrize("file", package_files(), ids=str)
def test_imports_run_downwards_and_are_relative(file: Path) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert not [name for name in absolute_imports(tree) if name.split(".")[0] == "detkds"]
    room = file.parts[0]
    for name in relative_imports(tree, file):
        other = name.split("/")[0]
        allowed = other == room or name == "__version__" or DEPTH[room] < DEPTH[other]
        assert allowed, f"{file} imports {name}: {room} stands no higher than {other}"


@pytest.mark.parametrize("file", package_files(), ids=str)
def test_a_file_can_be_read_at_one_sitting(file: Path) -> None:
    assert len((ROOT / file).read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", LEAN)
def test_a_module_imports_without(module: str, tmp_path: Path) -> None:
    unwanted = set(LEAN[module])
    question = f"import sys, {module}; print(*sorted({unwanted} & sys.modules.keys()))"
    answer = subprocess.run(
        [sys.executable, "-c", question],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == []


def committed_files() -> list[Path]:
    """What git tracks, or would: new files that it does not ignore are among them."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout: there is no list of committed files")
    return [ROOT / name for name in listing.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(rb"(?<![\w.~}-])/(?:work|tmp|root|home)/")
    files = [file for file in committed_files() if file.relative_to(ROOT).parts[0] != "tests"]
    named = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_bytes().splitlines(), start=1)
        if b"\0" not in line and place.search(line)
    ]
    assert named == []


def test_the_root_has_no_conftest() -> None:
    """pytest would import it as part of a package named like the clone's folder."""
    assert not (ROOT / "conftest.py").exists()
