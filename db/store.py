"""The store: every method is one transaction, and hands out plain rows."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker

from .. import __version__
from ..space import Candidate, Distiller, Outcome, Status, WrongUse, nearest
from .changes import flush_alone, get, get_untold, now, write_outcome
from .engine import hide_password, open_database
from .holding import held
from .models import AdaptationCost, Search, Training, Trial
from .patience import patient
from .records import flatten
from .requeue import requeue_failures, requeue_running
from .rows import CostRow, SearchRow, TrainingRow, TrialRow, to_row, to_rows
from .sqlite import READING


@patient
class Store:
    """Searches, trials, trainings and adaptation costs in a database.

    ``url`` is ``sqlite:///path/to/file.db``, made with ``create`` when it is not there, or
    ``postgresql+psycopg://user:password@host/database``. Opening brings the schema up to date.
    Several processes may write at the same time. A database that stops answering is waited for, up
    to ten minutes (see ``patience``). Raises :class:`WrongUse` for a URL that cannot be
    opened and for a database that a newer version has written; ids that the store does not hold
    raise LookupError.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        self.url = hide_password(url)
        #: Whether this is another try, after one whose end the lost connection left open.
        self.repeats = False
        self._engine = open_database(url, create)
        self._write = sessionmaker(self._engine)
        self._read = sessionmaker(self._engine.execution_options(**READING))

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Searches

    def create_search(
        self, name: str, config: Mapping[str, Any], conditions: str, seed: int
    ) -> SearchRow:
        """Begin a search. Raises :class:`WrongUse` when the name is taken."""
        search = Search(
            name=name,
            config=dict(config),
            conditions=conditions,
            seed=seed,
            version=__version__,
            created=now(),
            host=platform.node(),
        )
        try:
            with self._write.begin() as session:
                session.add(search)
                session.flush()
                return to_row(SearchRow, search)
        except IntegrityError:
            raise WrongUse(
                f"--name: {self.url} holds a search '{name}' already: continue it with --resume "
                "or give another --name"
            ) from None

    def find_search(self, name: str) -> SearchRow | None:
        with self._read.begin() as session:
            search = session.scalar(select(Search).where(Search.name == name))
            return None if search is None else to_row(SearchRow, search)

    def search(self, name: str) -> SearchRow:
        """The search of that name. Raises :class:`WrongUse` with the nearest name there is."""
        found = self.find_search(name)
        if found is not None:
            return found
        names = [search.name for search in self.searches()]
        advice = nearest(name, names) if names else "it holds none yet, start one first"
        raise WrongUse(f"{self.url} holds no search '{name}': {advice}")

    def searches(self) -> list[SearchRow]:
        """All searches, oldest first."""
        with self._read.begin() as session:
            return to_rows(SearchRow, session.scalars(select(Search).order_by(Search.id)))

    def held(self, name: str) -> AbstractContextManager[None]:
        """Hold a search while this process runs it; it is given back when the process ends.

        Entering it raises :class:`WrongUse` when another process holds the search.
        """
        return held(self._engine, name)

    def finish_search(self, search_id: int) -> None:
        with self._write.begin() as session:
            get(session, Search, search_id).finished = now()

    # Trials

    def add_trial(
        self, search_id: int, candidate: Candidate, asked_after: int, conditions: str, seed: int
    ) -> int:
        """Queue a trial of a candidate, asked for after ``asked_after`` outcomes; returns its id.

        Raises :class:`WrongUse` when the search has a trial of this number already, which is so
        when two processes run the same search.
        """
        trial = Trial(
            search_id=search_id,
            number=candidate.number,
            asked_after=asked_after,
            stage=candidate.stage,
            status=Status.QUEUED,
            distiller=candidate.distiller,
            notation=str(candidate.distiller),
            key=candidate.distiller.key,
            conditions=conditions,
            seed=seed,
            queued=now(),
        )
        with self._write.begin() as session:
            search = get(session, Search, search_id)
            same = {"search_id": search_id, "number": trial.number, "key": trial.key, "told": None}
            known = session.scalar(select(Trial).filter_by(**same)) if self.repeats else None
            if known is not None:
                return known.id
            session.add(trial)
            flush_alone(session, search)
            return trial.id

    def start_trial(self, trial_id: int, host: str, device: str) -> None:
        with self._write.begin() as session:
            trial = get_untold(session, trial_id)
            trial.status, trial.started = Status.RUNNING, now()
            trial.host, trial.device = host, device

    def tell_trial(
        self, trial_id: int, outcome: Outcome, told: int, reused_from: int | None = None
    ) -> None:
        """Record what came out, as the ``told``-th outcome of the search, counted from 0.

        ``reused_from`` is the id of the trial whose outcome this one takes over. Raises
        :class:`WrongUse` when the trial or the place has an outcome already, which is so when two
        processes run the same search.
        """
        with self._write.begin() as session:
            if self.repeats and get(session, Trial, trial_id).told == told:
                return
            trial = get_untold(session, trial_id)
            search = get(session, Search, trial.search_id)
            trial.reused_from = None if reused_from is None else get(session, Trial, reused_from).id
            trial.told = told
            write_outcome(trial, outcome)
            flush_alone(session, search)

    def requeue(self, search_id: int) -> int:
        """Put trials that ran when the process ended back into the queue; returns how many."""
        with self._write.begin() as session:
            return requeue_running(session, search_id)

    def requeue_failures(self, search_id: int, in_a_row: int) -> int:
        """Take back the failures that the search ends with, or that ended it; returns how many.

        Those that ended it are the first ``in_a_row`` with no other outcome of a worker among them.
        What an exact replay can't keep, trials asked for after the first of them, is forgotten.
        """
        with self._write.begin() as session:
            return requeue_failures(session, search_id, in_a_row)

    def trials(
        self, search_id: int | None, stage: str | None = None, status: Status | None = None
    ) -> list[TrialRow]:
        """The trials of one search or of all, in the order of asking."""
        wanted = {"search_id": search_id, "stage": stage, "status": status}
        query = select(Trial).filter_by(**{k: v for k, v in wanted.items() if v is not None})
        with self._read.begin() as session:
            ordered = query.order_by(Trial.search_id, Trial.number)
            return to_rows(TrialRow, session.scalars(ordered))

    def events(self, search_id: int) -> list[TrialRow]:
        """All that a replay of the search needs: its trials in the order of asking.

        Before asking for a trial, tell the outcomes whose ``told`` is below its ``asked_after``.
        """
        return self.trials(search_id)

    def scored(self, conditions: str, key: str) -> TrialRow | None:
        """A trial of any search that scored this distiller under these conditions."""
        query = select(Trial).filter_by(
            conditions=conditions, key=key, status=Status.COMPLETED, reused_from=None
        )
        return self._first(query.order_by(Trial.id))

    def best(self, search_id: int) -> TrialRow | None:
        """The completed trial of the highest score; of equal ones the first asked for."""
        query = select(Trial).filter_by(search_id=search_id, status=Status.COMPLETED)
        scored = query.where(Trial.score.is_not(None))  # PostgreSQL puts nulls first
        return self._first(scored.order_by(Trial.score.desc(), Trial.number))

    def counts(self, search_id: int) -> dict[Status, int]:
        """How many trials are in each state; states without trials count 0."""
        query = select(Trial.status, func.count()).filter_by(search_id=search_id)
        counts = dict.fromkeys(Status, 0)
        with self._read.begin() as session:
            for status, count in session.execute(query.group_by(Trial.status)):
                counts[status] = count
        return counts

    def trial_records(self, search_id: int | None = None) -> list[dict[str, Any]]:
        """The trials of one search or of all as flat dicts (see ``records.flatten``)."""
        trials = self.trials(search_id)  # first: of searches there can only be more by then
        names = {search.id: search.name for search in self.searches()}
        return flatten((names[trial.search_id], trial) for trial in trials)

    # Trainings

    def add_training(
        self,
        name: str,
        seed: int,
        split: str,
        conditions: str,
        search_id: int | None = None,
        distiller: Distiller | None = None,
        host: str | None = None,
        device: str | None = None,
    ) -> int:
        """Record that a full training starts, to be scored on ``split``; returns its id.

        One that was running when its process ended, and now goes on, keeps its row.
        """
        what = {"name": name, "seed": seed, "conditions": conditions, "search_id": search_id}
        unfinished = select(Training).filter_by(status=Status.RUNNING, split=split, **what)
        with self._write.begin() as session:
            if search_id is not None:
                get(session, Search, search_id)
            training = session.scalar(unfinished.limit(1)) or Training(
                status=Status.RUNNING, split=split, **what
            )
            training.distiller, training.started = distiller, now()
            training.host, training.device = host, device
            session.add(training)
            session.flush()
            return training.id

    def finish_training(
        self, training_id: int, outcome: Outcome, checkpoint: str | None = None
    ) -> None:
        with self._write.begin() as session:
            training = get(session, Training, training_id)
            write_outcome(training, outcome)
            training.checkpoint = checkpoint

    def trainings(self, search_id: int | None = None) -> list[TrainingRow]:
        """The full trainings of one search or all there are, oldest first."""
        query = select(Training).order_by(Training.id)
        if search_id is not None:
            query = query.filter_by(search_id=search_id)
        with self._read.begin() as session:
            return to_rows(TrainingRow, session.scalars(query))

    # Adaptation costs

    def add_costs(self, rows: Iterable[CostRow]) -> None:
        """Keep costs; one that another process has kept meanwhile stays as it is."""
        for row in rows:
            self.add_cost(row)

    def add_cost(self, row: CostRow) -> None:
        with suppress(IntegrityError), self._write.begin() as session:
            session.add(AdaptationCost(**vars(row)))

    def costs(self, data: str, keys: Collection[str]) -> list[CostRow]:
        """What is known of these images between models of these keys."""
        query = select(AdaptationCost).filter_by(data=data).order_by(AdaptationCost.id)
        between = AdaptationCost.source_key.in_(keys), AdaptationCost.target_key.in_(keys)
        with self._read.begin() as session:
            return to_rows(CostRow, session.scalars(query.where(*between)))

    def _first(self, query: Any) -> TrialRow | None:
        with self._read.begin() as session:
            trial = session.scalar(query.limit(1))
            return None if trial is None else to_row(TrialRow, trial)
