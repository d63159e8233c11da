"""A search's trials as an Optuna study, which optuna-dashboard shows."""

from __future__ import annotations

from pathlib import Path

from ..db import Store
from ..report import study_of
from ..space import WrongUse
from ..space.errors import hide_password
from .places import check_writable


def write_study(store: Store, name: str, where: str) -> str:
    """Copy the trials of a search to a study of the same name; returns what to do next.

    ``where``: a journal file that ends with ``.log``, or a database's URL, as optuna-dashboard
    takes them. Raises :class:`WrongUse` if the study is there already or can't be written.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError

    trials = store.trials(store.search(name).id)
    is_url = "://" in where
    if not is_url:
        if Path(where).suffix != ".log":
            raise WrongUse(f"--optuna {where}: give a file that ends with .log, or a database URL")
        check_writable("--optuna", Path(where))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = where if is_url else optuna.storages.JournalStorage(JournalFileBackend(where))
        study_of(trials, name, storage)
    except optuna.exceptions.DuplicatedStudyError:
        raise WrongUse(
            f"--optuna {hide_password(where)}: it holds a study '{name}' already; give another "
            "place"
        ) from None
    except (OSError, optuna.exceptions.OptunaError, SQLAlchemyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WrongUse(f"--optuna {hide_password(where)}: can't write it: {reason}") from None
    return f"{len(trials)} trials in the study '{name}': optuna-dashboard {hide_password(where)}"
