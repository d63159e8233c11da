"""A search whose trials take no time; its store, session, controller and display are the real ones.

``python simulated_search.py FOLDER`` stops at every state of the display, so that a test can look
at the state: the script makes the file ``FOLDER/at-N``, N counting from 0, and waits for the file
``FOLDER/after-N``.
"""

from __future__ import annotations

import random
import sys
import time
from itertools import count
from pathlib import Path

from detkds.cli.display import SearchDisplay
from detkds.db import Store
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import Candidate, Outcome, Progress, SearchSpace, Status

NAME = "simulated"
CONTINUE = "detkds search simulated --resume"
SPACE = SearchSpace.preset().only(["global", "logits"])
SETTINGS = Search(population=2, iterations=1, weights=4)
#: AP that a trial gains in the second half.
GAIN = 0.05


def score(candidate: Candidate) -> Outcome:
    """A landscape in which every trial gains the same in the second half of its training.

    One candidate fails; the filter rejects others.
    """
    if int(candidate.distiller.key, 16) % 5 == 0:
        return Outcome.rejected("loss is NaN")
    if candidate.number == 3:
        return Outcome.failed("RuntimeError: no space left")
    final = random.Random(candidate.distiller.key).random()
    if candidate.early_bar is None:
        return Outcome(Status.COMPLETED, score=final)
    if final - GAIN < candidate.early_bar:
        return Outcome(Status.STOPPED, early_score=final - GAIN, reason="stopped halfway")
    return Outcome(Status.COMPLETED, score=final, early_score=final - GAIN)


def main(folder: Path) -> None:
    numbers = count()

    def wait() -> None:
        number = next(numbers)
        (folder / f"at-{number}").touch()
        while not (folder / f"after-{number}").exists():
            time.sleep(0.01)

    with Store(f"sqlite:///{folder}/detkds.db") as store, SearchDisplay(CONTINUE) as display:
        search = store.create_search(NAME, {}, "conditions", 0)
        controller = Controller(SPACE, SETTINGS, seed=0)
        session = Session(controller, store, search.id, "conditions", 0)
        display.dashboard("http://127.0.0.1:8265")
        display.training(["teacher", "warm-up"], [(3, 8), (0, 0)])
        wait()
        session.changed = lambda: display.search(session, controller.planned)
        session.changed()
        wait()
        while not session.done:
            candidate = session.ask()
            if candidate is not None:
                session.started(candidate, "host", "cpu")
                session.progress({candidate.number: Progress(3, 8, 0.5, 90)})
                wait()
                session.tell(candidate, score(candidate))
        wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
