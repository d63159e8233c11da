"""The database behind the store: its schema, unusable URLs, several processes at once."""

import json
import os
import shutil
import signal
import sqlite3
import string
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from detkds.db import Store
from detkds.db.database import (
    MIGRATIONS,
    configuration,
    create_sqlite_engine,
    open_database,
    revision_of,
    use_write_ahead_log,
)
from detkds.db.maintenance import backup, check, upgrade_database
from detkds.db.migrations.__main__ import write_revision
from detkds.db.models import Base
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse
from detkds.space.errors import hide_password
from sqlalchemy import MetaData, create_engine, inspect, make_url, text

GLOBAL = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")


def test_migrations_give_the_models_schema(url):
    engine = open_database(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    with engine.begin() as connection:
        command.downgrade(configuration(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


TIME = datetime(2026, 1, 2, 3, 4, 5, 678, timezone.utc)
SEARCH = {"config": '{"a": 1}', "conditions": "c", "seed": 2**62, "version": "0.1.0"}
SEARCH |= {"created": TIME, "finished": None, "host": "node"}
RUN = {"metrics": '{"bbox_mAP": 0.5}', "reason": None, "error": "é", "seed": 3, "host": "node"}
RUN |= {"device": "cuda:0", "started": TIME, "finished": TIME, "seconds": 1.5}
TRIAL = {"asked_after": 0, "stage": "global", "notation": str(GLOBAL), "key": GLOBAL.key}
TRIAL |= {"distiller": json.dumps(GLOBAL.to_dict()["terms"]), "conditions": "c", "queued": TIME}
TRAINING = {"search_id": 1, "name": "alone", "distiller": None, "conditions": "c", "split": "test"}
COST = {"data": "d", "source": "r18", "source_key": "a", "target": "r34", "target_key": "b"}
COST |= {"cost": 0.25, "fit": 0.5, "levels": '{"8": [0.5, 0.25]}', "images": 10, "created": TIME}
#: Rows as the first two schemas hold them, in columns that JSON, a distiller or a status is read
#: from. Trials refer to other trials of their own search and of another search.
OLD_ROWS = {
    "searches": [{"name": name, **SEARCH} for name in ("first", "second")],
    "trials": [
        {**TRIAL, **RUN, **row}
        for row in (
            {"search_id": 1, "number": 0, "told": 1, "status": "completed", "score": 0.5},
            {"search_id": 1, "number": 1, "told": 0, "status": "completed", "score": 0.5},
            {"search_id": 1, "number": 2, "told": None, "status": "running", "score": None},
            {"search_id": 2, "number": 0, "told": 0, "status": "failed", "score": None},
        )
    ],
    "trainings": [{**TRAINING, **RUN, "status": "rejected", "score": None, "checkpoint": "s.pth"}],
    "adaptation_costs": [COST],
}
REUSED_FROM = {1: 2, 2: None, 3: None, 4: 1}
READ_AS = {"config": json.loads, "metrics": json.loads, "levels": json.loads, "status": Status}
READ_AS |= {"distiller": lambda terms: terms and GLOBAL}


#: Files that SQLite keeps beside an open database.
SIDE_FILES = ("detkds.db-wal", "detkds.db-shm")
NEWEST = max(path.name for path in (MIGRATIONS / "versions").glob("r*.py"))[1:5]


def write_old_rows(url: str, revision: str) -> None:
    """Make a database of an earlier schema that holds the old rows of its tables."""
    engine = create_engine(url)
    with engine.begin() as connection:
        command.upgrade(configuration(connection), revision)
    schema = MetaData()
    schema.reflect(engine)
    with engine.begin() as connection:
        for table in schema.sorted_tables:
            if table.name in OLD_ROWS:
                connection.execute(table.insert(), OLD_ROWS[table.name])
        for trial, source in REUSED_FROM.items():
            trials = schema.tables["trials"]
            connection.execute(
                trials.update().where(trials.c.id == trial).values(reused_from=source)
            )
    engine.dispose()


def expected(table: str) -> list[dict]:
    """The old rows as the newest schema's rows show them."""
    rows = []
    for number, row in enumerate(OLD_ROWS[table], start=1):
        read = {name: READ_AS.get(name, lambda value: value)(row[name]) for name in row}
        if table != "adaptation_costs":
            read["id"] = number
        if table == "trials":
            read |= {"tell_order": read.pop("told"), "reused_from": REUSED_FROM[number]}
            read["early_score"] = None
        if table == "searches":
            read["confirmation"] = None
        if table != "adaptation_costs":
            read["holder"] = None
        rows.append(read)
    return rows


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_database_of_an_earlier_schema_opens_with_its_rows(url, revision):
    """A PostgreSQL server, which others may use, when its owner says so."""
    write_old_rows(url, revision)
    if url.startswith("postgresql"):
        with pytest.raises(WrongUse, match="`detkds db upgrade`, both with this --storage"):
            Store(url)
        engine = create_engine(url)
        assert revision_of(engine) == revision, "nothing is changed"
        engine.dispose()
        assert upgrade_database(url) == (revision, NEWEST)
    with Store(url) as store:
        assert [vars(row) for row in store.searches()] == expected("searches")
        assert [vars(row) for row in store.trials(None)] == expected("trials")
        assert [vars(row) for row in store.trainings()] == expected("trainings")
        costs = [vars(row) for row in store.costs("d", ["a", "b"])]
        assert costs == (expected("adaptation_costs") if revision == "0002" else [])
        with pytest.raises(WrongUse, match="another process"):
            store.tell_trial(3, Outcome.rejected("NaN"), tell_order=1)
        store.tell_trial(3, Outcome.rejected("NaN"), tell_order=2)
        assert [trial.tell_order for trial in store.trials(1)] == [1, 0, 2]
        store.add_trial(2, Candidate(1, "global", GLOBAL), 1, "c", 0)
    Store(url).close()


def test_sqlite_settings(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path}/detkds.db")
    with engine.connect() as connection:
        names = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    engine.dispose()
    assert values == ["wal", 1, 1, 30_000]


def test_a_new_revision_follows_the_newest(tmp_path):
    folder = Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))
    newest = max(path.name for path in MIGRATIONS.glob("versions/r*.py"))
    write_revision("nothing yet", folder)
    written = max(path.name for path in folder.glob("versions/r*.py"))
    assert written == f"r{int(newest[1:5]) + 1:04d}_nothing_yet.py"
    source = (folder / "versions" / written).read_text()
    assert f'down_revision = "{newest[1:5]}"' in source.replace("'", '"')
    compile(source, written, "exec")


def test_importing_the_store_stays_light():
    code = "import sys, detkds.db; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "ray", "mmdet", "mmengine", "pandas"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# What an owner does


@pytest.mark.parametrize("revision", ["0002", NEWEST])
def test_a_backup_opens_with_the_rows_of_its_original(url, revision, tmp_path):
    if revision == NEWEST:
        with Store(url) as store:
            search = store.create_search("first", {"a": 1}, "c", 2)
            trial = store.add_trial(search.id, Candidate(0, "global", GLOBAL), 0, "c", 0)
            store.tell_trial(trial, Outcome(Status.COMPLETED, score=0.5), 0)
            before = store.searches(), store.trials(None), store.trainings()
    else:
        write_old_rows(url, revision)
        before = None
    counts = backup(url, tmp_path / "copy.db")
    assert counts["trials"] == (1 if before else 4)
    assert {path.name for path in tmp_path.iterdir()} <= {"copy.db", "detkds.db", *SIDE_FILES}
    with Store(f"sqlite:///{tmp_path / 'copy.db'}") as copied:
        if before:
            assert (copied.searches(), copied.trials(None), copied.trainings()) == before
        else:
            assert [vars(row) for row in copied.searches()] == expected("searches")
            assert [vars(row) for row in copied.trials(None)] == expected("trials")
            assert [vars(row) for row in copied.costs("d", ["a", "b"])] == expected(
                "adaptation_costs"
            )


def test_a_check_counts_rows_and_finds_what_is_damaged(url):
    with Store(url) as store:
        search = store.create_search("first", {}, "c", 2)
        store.add_trial(search.id, Candidate(0, "global", GLOBAL), 0, "c", 0)
        with store.held("first"):
            found = check(url)
            assert found.held[0].startswith("'first' is run by ")
            with pytest.raises(WrongUse, match=r"'first' is run by .*: let it finish or stop it"):
                upgrade_database(url)
    assert check(url).held == []
    assert (found.revision, found.newest, found.faults) == (NEWEST, NEWEST, [])
    assert (found.counts["searches"], found.counts["trials"]) == (1, 1)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE trials SET distiller = '[{}]'"))
    engine.dispose()
    (fault,) = check(url).faults
    assert "a distiller in the database" in fault


def test_nothing_is_done_to_a_database_without_tables(url, tmp_path):
    create_engine(url).connect().close()
    for action in (check, upgrade_database, lambda url: backup(url, tmp_path / "copy.db")):
        with pytest.raises(WrongUse, match="no tables of detkds"):
            action(url)
    assert not (tmp_path / "copy.db").exists()


# Databases that cannot be used


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("", "not a database URL"),
        ("detkds.db", "not a database URL"),
        ("sqlite:detkds.db", "not a database URL"),
        ("sqlite://detkds.db", "sqlite:/// before a relative path"),
        ("sqlite:///{folder}/detkds.db?timeout=long", "could not convert"),
        ("sqlite:///{folder}/missing/detkds.db", "missing does not exist"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:///{folder}/text.db", "not a database"),
        ("sqlite:////proc/detkds.db", "unable to open"),
        ("mysql://me:s3cret@host/x", "'mysql' is not supported"),
        ("sqlite+aiosqlite:///{folder}/detkds.db", "not supported"),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/x", "Connection refused"),
        ("postgresql+psycopg://me:in@s3cret@127.0.0.1:1/x", "%40"),
        ("postgresql+psycopg://me:in/s3cret@127.0.0.1:port/x", "not a database URL"),
        ("postgresql://127.0.0.1:1/x?user=me&password=s3cret", "Connection refused"),
        ("postgresql:///x?host={folder}", "No such file"),
    ],
)
def test_an_unusable_url_raises_one_line(tmp_path, wrong, reason):
    (tmp_path / "text.db").write_text("not a database " * 100)
    with pytest.raises(WrongUse, match=reason) as told:
        Store(wrong.format(folder=tmp_path))
    message = str(told.value)
    assert message.startswith("storage: can't use '")
    assert hide_password(wrong.format(folder=tmp_path)) in message
    assert "s3cret" not in message
    assert os.listdir(tmp_path) == ["text.db"]
    assert (tmp_path / "text.db").read_text() == "not a database " * 100


def test_a_full_disk_leaves_no_file(tmp_path):
    code = """
import resource, signal, sys
from detkds import __version__
from detkds.db import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
Store(sys.argv[1])
"""
    url = f"sqlite:///{tmp_path}/detkds.db"
    done = subprocess.run([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True)
    assert "WrongUse: storage: can't use" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_newer_schema_is_refused_and_unchanged(url):
    Store(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WrongUse, match=r"a newer version may have written it: update detkds"):
        Store(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


# Several processes

WRITER = string.Template("""
import itertools, sys
from detkds import __version__
from detkds.db import Store
from detkds.space import Candidate, Distiller, Outcome, Status
print("ready", flush=True)
sys.stdin.readline()
url, name, count = sys.argv[1:]
distiller = Distiller.parse("$distiller")
with Store(url) as store:
    search = store.create_search(name, {}, "c", 0)
    for number in range(int(count)):
        candidate = Candidate(number, "global", distiller)
        trial = store.add_trial(search.id, candidate, number, "c", 0)
        store.start_trial(trial, "host", "cpu")
        outcome = Outcome(Status.COMPLETED, 0.5, {"bbox_mAP": 0.5}, error="x" * 5000)
        store.tell_trial(trial, outcome, number)
        print(number, flush=True)
""").substitute(distiller=GLOBAL)


def test_opening_and_reading_do_not_wait_for_a_process_that_writes(store, url):
    search = store.create_search("a", {}, "c", 0)
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE searches SET seed = 1"))
        with Store(url) as reader:
            assert reader.searches() == [search]
    engine.dispose()
    assert store.search("a").seed == 1


def start_writers(url: str, names: list[str], count: int) -> list[subprocess.Popen[str]]:
    """Start processes that open the database and write trials, all at the same moment."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    return writers


@pytest.mark.slow
def test_processes_open_a_new_database_and_write_at_once(url):
    names = ["first", "second", "third"]
    writers = start_writers(url, names, 40)
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with Store(url) as store:
        for name in names:
            trials = store.trials(store.search(name).id)
            assert [(t.number, t.tell_order, t.score) for t in trials] == [
                (number, number, 0.5) for number in range(40)
            ]


def test_setting_the_journal_mode_waits_for_a_process_that_writes(tmp_path):
    """SQLite itself does not wait here: "database is locked" at once."""
    engine = create_sqlite_engine(make_url(f"sqlite:///{tmp_path}/new.db"))
    other = sqlite3.connect(tmp_path / "new.db", check_same_thread=False, isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.5, lambda: other.execute("COMMIT")).start()
    use_write_ahead_log(engine)
    other.close()
    with sqlite3.connect(tmp_path / "new.db") as fresh:
        assert fresh.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.slow
def test_a_killed_process_leaves_no_half_written_row(url):
    for name, written in (("a", 5), ("b", 30), ("c", 57)):
        (writer,) = start_writers(url, [name], 1_000_000)
        seen = [writer.stdout.readline() for _ in range(written)]
        os.kill(writer.pid, signal.SIGKILL)
        seen += writer.communicate()[0].splitlines()
        with Store(url) as store:
            *told, last = store.trials(store.search(name).id)
        assert len(told) + 1 >= len(seen)
        assert [trial.number for trial in [*told, last]] == list(range(len(told) + 1))
        for number, trial in enumerate(told):
            assert (trial.tell_order, trial.score, trial.error) == (number, 0.5, "x" * 5000)
            assert None not in (trial.started, trial.finished)
        assert (last.tell_order is None) == (last.outcome is None) == (last.finished is None)
        assert (last.started is None) == (last.status is Status.QUEUED)
