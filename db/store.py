"""The store: every method reads or writes in one transaction and hands out plain rows."""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .. import __version__
from ..space import Candidate, Distiller, Outcome, Status, WrongUse, nearest
from ..space.errors import hide_password
from .conflicts import find_untold, flush
from .database import open_database
from .lease import holder, leased
from .models import AdaptationCost, Search, Training, Trial, find, now
from .requeue import begin_anew, requeue_failures, requeue_running
from .rows import CostRow, Row, SearchRow, TrainingRow, TrialRow, flatten, to_row
from .transactions import Transactions

#: Earlier versions stored NaN as a completed score: SQLite holds NULL for it, and PostgreSQL sorts
#: NaN above infinity.
_FINITE = and_(Trial.score > -math.inf, Trial.score < math.inf)


class Store:
    """Searches, trials, trainings and adaptation costs in a database.

    ``url`` is ``sqlite:///path/to/file.db`` or ``postgresql+psycopg://user:password@host/database``;
    ``create`` makes a SQLite file that does not exist. Opening brings the schema up to date.
    Several processes may write at the same time. A method waits for a database that does not
    answer, up to ``patience`` seconds, ten minutes by default (see :class:`Transactions`).

    Raises :class:`WrongUse` for a database that cannot be opened, or whose schema is newer than
    this version. A method raises LookupError for an id that the store does not hold.
    """

    def __init__(self, url: str, create: bool = True, patience: float | None = None) -> None:
        self.url = hide_password(url)
        self._engine = open_database(url, create)
        self._transactions = Transactions(self._engine, self.url, patience)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Searches

    def create_search(
        self, name: str, config: Mapping[str, Any], conditions: str, seed: int
    ) -> SearchRow:
        """Begin a search. Raises :class:`WrongUse` when the name is taken."""
        created = now()

        def create(session: Session, repeated: bool) -> SearchRow:
            own = select(Search).filter_by(name=name, created=created)
            search = session.scalar(own) if repeated else None
            search = search or Search(
                name=name,
                config=dict(config),
                conditions=conditions,
                seed=seed,
                version=__version__,
                created=created,
                host=platform.node(),
                holder=holder(),
            )
            session.add(search)
            session.flush()
            return to_row(SearchRow, search)

        try:
            return self._transactions.write_once(create)
        except IntegrityError:
            raise WrongUse(
                f"{self.url} holds a search '{name}' already: resume it or give another name",
                setting="name",
            ) from None

    def begin_anew(self, search_id: int, config: dict, conditions: str, seed: int) -> SearchRow:
        """Begin a search without scores again; see :func:`~detkds.db.requeue.begin_anew`."""
        own = config, conditions, seed
        return self._transactions.write(
            lambda session: to_row(SearchRow, begin_anew(session, search_id, *own))
        )

    def find_search(self, name: str) -> SearchRow | None:
        return self._first(SearchRow, select(Search).filter_by(name=name))

    def search(self, name: str) -> SearchRow:
        """The search of this name. Raises :class:`WrongUse` that suggests the nearest name."""
        found = self.find_search(name)
        if found is not None:
            return found
        names = [search.name for search in self.searches()]
        advice = nearest(name, names) if names else "it holds none yet, start one first"
        raise WrongUse(f"{self.url} holds no search '{name}': {advice}")

    def searches(self) -> list[SearchRow]:
        """All searches, oldest first."""
        return self._all(SearchRow, select(Search).order_by(Search.id))

    def held(self, name: str) -> AbstractContextManager[None]:
        """A context in which this process alone runs the search of this name.

        See :func:`~detkds.db.lease.leased`. Entering it raises :class:`WrongUse` when another
        process runs the search, with who, where and since when.
        """
        return leased(self._transactions, name)

    def finish_search(self, search_id: int) -> None:
        self._set(search_id, "finished", now())

    def confirm_search(self, search_id: int, confirmation: dict[str, Any]) -> None:
        """Record which trial is exported and why."""
        self._set(search_id, "confirmation", confirmation)

    def _set(self, search_id: int, column: str, value: Any) -> None:
        def write(session: Session) -> None:
            setattr(find(session, Search, search_id), column, value)

        self._transactions.write(write)

    # Trials

    def add_trial(
        self, search_id: int, candidate: Candidate, asked_after: int, conditions: str, seed: int
    ) -> int:
        """Queue a trial of a candidate that was asked for after ``asked_after`` outcomes.

        Returns the trial's id. Raises :class:`WrongUse` when the search has a trial of this number
        already, which happens when two processes run the same search.
        """
        number, key = candidate.number, candidate.distiller.key

        def add(session: Session, repeated: bool) -> int:
            search = find(session, Search, search_id)
            own = select(Trial).filter_by(
                search_id=search_id, number=number, key=key, tell_order=None
            )
            known = session.scalar(own) if repeated else None
            if known is not None:
                return known.id
            trial = Trial(
                search_id=search_id,
                number=number,
                asked_after=asked_after,
                stage=candidate.stage,
                status=Status.QUEUED,
                distiller=candidate.distiller,
                notation=str(candidate.distiller),
                key=key,
                conditions=conditions,
                seed=seed,
                queued=now(),
                holder=holder(),
            )
            session.add(trial)
            flush(session, search)
            return trial.id

        return self._transactions.write_once(add)

    def start_trial(self, trial_id: int, host: str, device: str) -> None:
        def start(session: Session) -> None:
            trial = find_untold(session, trial_id)
            trial.status, trial.started, trial.holder = Status.RUNNING, now(), holder()
            trial.host, trial.device = host, device

        self._transactions.write(start)

    def tell_trial(
        self, trial_id: int, outcome: Outcome, tell_order: int, reused_from: int | None = None
    ) -> None:
        """Write the outcome of a trial, at the place ``tell_order`` in the order of telling.

        ``reused_from`` is the id of the trial that the outcome was copied from. Raises
        :class:`WrongUse` when the trial has an outcome already or when the place is taken, which
        happens when two processes run the same search.
        """

        def tell(session: Session, repeated: bool) -> None:
            if repeated and find(session, Trial, trial_id).tell_order == tell_order:
                return
            trial = find_untold(session, trial_id)
            search = find(session, Search, trial.search_id)
            # A trial that is deleted meanwhile has left its score to this one.
            known = None if reused_from is None else session.get(Trial, reused_from)
            trial.reused_from = None if known is None else known.id
            trial.tell_order, trial.holder = tell_order, holder()
            trial.finish(outcome)
            flush(session, search)

        self._transactions.write_once(tell)

    def requeue(self, search_id: int) -> int:
        """Queue the trials again that ran when their process ended; returns how many."""
        return self._transactions.write(lambda session: requeue_running(session, search_id))

    def requeue_failures(self, search_id: int, in_a_row: int) -> int:
        """Queue the failures again that ended the search; returns how many.

        See :func:`~detkds.db.requeue.requeue_failures`.
        """
        return self._transactions.write(
            lambda session: requeue_failures(session, search_id, in_a_row)
        )

    def trials(
        self, search_id: int | None, stage: str | None = None, status: Status | None = None
    ) -> list[TrialRow]:
        """The trials of one search or of all searches, in the order of asking."""
        wanted = {"search_id": search_id, "stage": stage, "status": status}
        query = select(Trial).filter_by(**{k: v for k, v in wanted.items() if v is not None})
        return self._all(TrialRow, query.order_by(Trial.search_id, Trial.number))

    def events(self, search_id: int) -> list[TrialRow]:
        """The trials of a search in the order of asking, for a replay.

        Before a trial is asked for, the outcomes with a ``tell_order`` below the trial's
        ``asked_after`` are told.
        """
        return self.trials(search_id)

    def scored(self, conditions: str, key: str, early_bar: float | None = None) -> TrialRow | None:
        """The first trial of any search that scored this distiller under these conditions.

        Without such a trial, the first trial that was stopped early and that ``early_bar`` stops,
        too.
        """
        query = select(Trial).filter_by(conditions=conditions, key=key, reused_from=None)
        completed = and_(Trial.status == Status.COMPLETED, _FINITE)
        if early_bar is None:
            query = query.where(completed)
        else:
            stopped = and_(Trial.status == Status.STOPPED, Trial.early_score < early_bar)
            query = query.where(or_(completed, stopped))
        return self._first(TrialRow, query.order_by(Trial.status != Status.COMPLETED, Trial.id))

    def best(self, search_id: int) -> TrialRow | None:
        """The completed trial with the highest score; among equals the trial asked for first."""
        query = select(Trial).filter_by(search_id=search_id, status=Status.COMPLETED)
        ranked = query.where(_FINITE).order_by(Trial.score.desc(), Trial.number)
        return self._first(TrialRow, ranked)

    def counts(self, search_id: int) -> dict[Status, int]:
        """The number of trials in each state, 0 included."""
        query = select(Trial.status, func.count()).filter_by(search_id=search_id)
        counts = dict.fromkeys(Status, 0)
        for status, count in self._transactions.read(
            lambda session: session.execute(query.group_by(Trial.status)).all()
        ):
            counts[status] = count
        return counts

    def trial_records(self, search_id: int | None = None) -> list[dict[str, Any]]:
        """The trials of one search or of all searches as flat dicts (see ``rows.flatten``)."""
        trials = self.trials(search_id)  # before the searches: every trial's search is read then
        names = {search.id: search.name for search in self.searches()}
        with self._transactions.telling_what_is_broken():
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
        checkpoint: str | None = None,
    ) -> int:
        """Record that a full training starts, to be scored on ``split``; returns its id.

        A training that resumes keeps the row of its interrupted run. It leaves ``checkpoint``.
        """
        what = {"name": name, "seed": seed, "conditions": conditions, "search_id": search_id}
        unfinished = select(Training).filter_by(status=Status.RUNNING, split=split, **what)

        def add(session: Session) -> int:
            if search_id is not None:
                find(session, Search, search_id)
            training = session.scalar(unfinished.limit(1)) or Training(
                status=Status.RUNNING, split=split, **what
            )
            training.distiller, training.started = distiller, now()
            training.checkpoint, training.holder = checkpoint, holder()
            session.add(training)
            session.flush()
            return training.id

        return self._transactions.write(add)

    def finish_training(
        self, training_id: int, outcome: Outcome, checkpoint: str | None = None
    ) -> None:
        def finish(session: Session) -> None:
            training = find(session, Training, training_id)
            training.finish(outcome)
            training.checkpoint, training.holder = checkpoint, holder()

        self._transactions.write(finish)

    def trainings(self, search_id: int | None = None) -> list[TrainingRow]:
        """The full trainings of one search, or all full trainings, oldest first."""
        query = select(Training).order_by(Training.id)
        return self._all(
            TrainingRow, query if search_id is None else query.filter_by(search_id=search_id)
        )

    # Adaptation costs

    def add_costs(self, rows: Iterable[CostRow]) -> None:
        """Add costs. A cost that another process has added in the meantime stays as it is."""
        for row in rows:
            with suppress(IntegrityError):
                self._transactions.write(partial(_add_cost, row))

    def costs(self, data: str, keys: Collection[str]) -> list[CostRow]:
        """The known costs on these images between models of these keys."""
        query = select(AdaptationCost).filter_by(data=data).order_by(AdaptationCost.id)
        between = AdaptationCost.source_key.in_(keys), AdaptationCost.target_key.in_(keys)
        return self._all(CostRow, query.where(*between))

    # What the methods share

    def _all(self, row_type: type[Row], query: Select) -> list[Row]:
        return self._transactions.read(
            lambda session: [to_row(row_type, model) for model in session.scalars(query)]
        )

    def _first(self, row_type: type[Row], query: Select) -> Row | None:
        return next(iter(self._all(row_type, query.limit(1))), None)


def _add_cost(row: CostRow, session: Session) -> None:
    session.add(AdaptationCost(**vars(row)))
