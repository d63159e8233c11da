"""The house rules that a reader of the source can check. ``make lint`` holds the layers."""

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
MAX_LINES = 350

#: Packages that some modules must not load, and these modules. An import contract does not see
#: what the ``__init__.py`` above a module loads, so these modules are imported.
LEAN = {
    ("torch", "ray", "mmdet", "sqlalchemy", "pandas"): (
        "detkds",
        "detkds.space",
        "detkds.settings",
        "detkds.search.algorithms",
        "detkds.search.controller",
        "detkds.search.api",
    ),
    ("torch", "ray", "mmdet"): ("detkds.db", "detkds.report"),
    ("ray", "sqlalchemy"): ("detkds.detectors", "detkds.distillers", "detkds.workers.trial"),
}
#: Imports modules in turn; prints each module with the unwanted packages that it was first to load.
LOAD = """
import importlib, sys
unwanted, modules = (argument.split(",") for argument in sys.argv[1:])
for module in modules:
    before = set(sys.modules)
    importlib.import_module(module)
    loaded = sorted((sys.modules.keys() - before) & set(unwanted))
    if loaded:
        print(module, "loads", *loaded)
"""


def packages() -> list[Path]:
    """The package's folders, relative to the root: the root itself and the rooms."""
    rooms = [path.parent for path in ROOT.glob("*/__init__.py")]
    folders = [path.parent for room in rooms for path in room.rglob("__init__.py")]
    return [Path(), *sorted(folder.relative_to(ROOT) for folder in folders)]


def package_files() -> list[Path]:
    """The package's Python files, relative to the root."""
    files = (file for folder in packages() for file in (ROOT / folder).glob("*.py"))
    return [file.relative_to(ROOT) for file in files]


def absolute_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_imports_inside_the_package_are_relative() -> None:
    absolute = [
        f"{file} imports {name}"
        for file in package_files()
        for name in absolute_imports(ast.parse((ROOT / file).read_text("utf-8")))
        if name.split(".")[0] == "detkds"
    ]
    assert absolute == []


def test_a_file_can_be_read_at_one_sitting() -> None:
    lengths = {file: len((ROOT / file).read_text("utf-8").splitlines()) for file in package_files()}
    too_long = {file: lines for file, lines in lengths.items() if lines > MAX_LINES}
    assert {str(file): lines for file, lines in too_long.items()} == {}


def test_every_package_is_installed() -> None:
    """An editable installation would hide that a wheel leaves a package out."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    names = [".".join(("detkds", *folder.parts)) for folder in packages()]
    assert [name for name in names if f'\n  "{name}",\n' not in project] == []


def test_modules_import_without_what_they_do_not_need(tmp_path: Path) -> None:
    loaded = []
    for unwanted, modules in LEAN.items():
        done = subprocess.run(
            [sys.executable, "-c", LOAD, ",".join(unwanted), ",".join(modules)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        loaded += done.stdout.splitlines()
    assert loaded == []


def committed_files() -> list[Path]:
    """The files that git tracks, and new files that git does not ignore."""
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
