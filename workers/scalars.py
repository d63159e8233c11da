"""What a trial shows to mmengine's visualization backends: TensorBoard, W&B, MLflow and others."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdet.registry import VISBACKENDS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..space import Candidate, Outcome
from .leftovers import SHOWN
from .naming import trial_name

#: Iterations between two points of a curve; the last iteration is a point in any case.
EVERY = 10
#: In texts of a backend's options, this stands for the trial's name.
NAME = "{name}"
#: How mmengine's message hub names what belongs to the training.
_TRAINING = "train/"


class Scalars(Hook):
    """Shows a trial's losses, learning rate and scores to mmengine's visualization backends.

    ``backends``: their configs. Files go to ``folder``, which is emptied first. No trial fails
    because nobody sees it: a backend that raises is left out from then on, and the worker's log
    says so.
    """

    priority = "VERY_LOW"

    def __init__(
        self, backends: Sequence[Mapping[str, Any]], folder: Path, search: str, candidate: Candidate
    ) -> None:
        self.folder = folder
        self.iterations = 0
        name = trial_name(search, candidate)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier try
        content = {
            **{"search": search, "trial": candidate.number, "stage": candidate.stage},
            **{"distiller": str(candidate.distiller), "work_dir": str(folder)},
        }
        self.backends: list[Any] = []
        for one in backends:
            with _left_out(one["type"]):
                backend = VISBACKENDS.build({**_named(one, name), "save_dir": str(folder)})
                backend.add_config(Config(content))
                self.backends.append(backend)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.iterations = runner.iter + 1
        if self.iterations % EVERY and self.iterations < runner.max_iters:
            return
        known = runner.message_hub.log_scalars
        scalars = {
            name.removeprefix(_TRAINING): float(values.current())
            for name, values in known.items()
            if name.startswith(_TRAINING)
        }
        self._each(lambda backend: backend.add_scalars(dict(scalars), step=self.iterations))

    def end(self, outcome: Outcome) -> None:
        """Show the outcome's scores, and close the backends."""
        scores = {**outcome.metrics, "AP": outcome.score, "early_AP": outcome.early_score}
        shown = {name: value for name, value in scores.items() if value is not None}
        self._each(lambda backend: backend.add_scalars(dict(shown), step=self.iterations))
        self._each(lambda backend: backend.close())

    def _each(self, call: Callable[[Any], object]) -> None:
        backends, self.backends = self.backends, []
        for backend in backends:
            with _left_out(type(backend).__name__):
                call(backend)
                self.backends.append(backend)


@contextmanager
def _left_out(backend: object) -> Iterator[None]:
    """Say why a backend is left out: a service does not answer, a disk is full."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # A training is quiet: sys.stdout leads nowhere.
        print(f"{backend} is left out of this trial: {reason}", file=sys.__stdout__, flush=True)


def scalars_folder(work_folder: Path, search: str, candidate: Candidate) -> Path:
    """The folder of a trial's files, by the trial's name."""
    folder = work_folder / f"{search}{SHOWN}"
    name = trial_name(search, candidate).removeprefix(f"{search}/")
    return folder / re.sub(r"[^\w .,+-]", "_", name)


def _named(value: Any, name: str) -> Any:
    """The same options with the trial's name in their texts."""
    if isinstance(value, str):
        return value.replace(NAME, name)
    if isinstance(value, Mapping):
        return {key: _named(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_named(one, name) for one in value]
    return value
