"""What a collection has measured so far: an SQLite file, a row a run, on the disk at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from detkds.space import Distiller, Status, WrongUse
from filelock import FileLock, Timeout
from table_rows import Job, Run, Scores

_TABLES = """
create table if not exists conditions (
    problem text not null, kind text not null, conditions text not null,
    primary key (problem, kind)
);
create table if not exists sizes (
    problem text not null, form text not null, size real not null, primary key (problem, form)
);
create table if not exists runs (
    problem text not null, key text not null, distiller text not null, kind text not null,
    seed integer not null, status text not null, reason text, epochs text not null,
    cpu real not null, seconds real not null, metrics text not null,
    primary key (problem, key, kind, seed)
);
"""


class Log:
    """The runs of one folder. Several processes may add runs at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.claims = folder, folder / "claims"
        self.claims.mkdir(parents=True, exist_ok=True)
        self.database = sqlite3.connect(folder / "runs.db", timeout=60, isolation_level=None)
        self.database.execute("pragma journal_mode=wal")
        self.database.execute("pragma synchronous=full")  # a row is on the disk when it is added
        self.database.executescript(_TABLES)

    def check(self, problem: str, kind: str, conditions: str) -> None:
        """Raise :class:`WrongUse` if runs of this kind were made under other conditions."""
        self.database.execute(
            "insert or ignore into conditions values (?, ?, ?)", (problem, kind, conditions)
        )
        (known,) = self.database.execute(
            "select conditions from conditions where problem = ? and kind = ?", (problem, kind)
        ).fetchone()
        if known != conditions:
            raise WrongUse(
                f"the runs '{kind}' of '{problem}' in {self.folder} were made with another "
                "student, teacher, data, schedule or version, and would not compare; give another "
                "folder",
                "--work-dir",
            )

    def has(self, job: Job) -> bool:
        """Whether the run is done. A run that failed is not, and is tried again."""
        return self.status(job) not in (None, Status.FAILED)

    def status(self, job: Job) -> Status | None:
        """What became of a run; None: it was not made."""
        found = self.database.execute(
            "select status from runs where problem = ? and key = ? and kind = ? and seed = ?",
            (job.problem, job.key, job.kind, job.seed),
        ).fetchone()
        return None if found is None else Status(found[0])

    def add(self, job: Job, run: Run) -> None:
        epochs = json.dumps([asdict(one) for one in run.epochs])
        values = (job.problem, job.key, job.text, job.kind, job.seed, run.status.value)
        self.database.execute(
            "insert or replace into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, run.reason, epochs, run.cpu, run.seconds, json.dumps(run.metrics)),
        )

    def runs(self) -> Iterator[tuple[Job, Run]]:
        """All runs, in the order of problem, distiller, kind and seed."""
        rows = self.database.execute("select * from runs order by problem, key, kind, seed")
        for problem, _, text, kind, seed, status, reason, epochs, cpu, seconds, metrics in rows:
            scores = [Scores(**one) for one in json.loads(epochs)]
            run = Run(Status(status), scores, reason, cpu, seconds, json.loads(metrics))
            yield Job(problem, Distiller.parse(text), kind, seed), run

    def conditions(self, problem: str) -> dict[str, str]:
        """By kind, the key of what the scores of the problem's runs depend on."""
        rows = self.database.execute(
            "select kind, conditions from conditions where problem = ? order by kind", (problem,)
        )
        return dict(rows.fetchall())

    def sizes(self, problem: str) -> dict[str, float]:
        """The sizes of the problem's gradients; empty before they are added."""
        rows = self.database.execute(
            "select form, size from sizes where problem = ? order by form", (problem,)
        )
        return dict(rows.fetchall())

    def add_sizes(self, problem: str, sizes: dict[str, float]) -> None:
        rows = [(problem, form, size) for form, size in sizes.items()]
        self.database.execute("begin")
        self.database.executemany("insert or replace into sizes values (?, ?, ?)", rows)
        self.database.execute("commit")

    @contextmanager
    def claimed(self, job: Job) -> Iterator[bool]:
        """Whether the run is for this process to make: not done, and in no other process's hands.

        The claim is a lock of the operating system, which ends with the process.
        """
        lock = FileLock(self.claims / f"{job.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield not self.has(job)
        finally:
            if self.has(
                job
            ):  # before the release: whoever claims the run next sees that it is done
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
