"""A full training over several processes, on one machine or several, by Ray Train."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.constants import RAY_CHDIR_TO_TRIAL_DIR
from ray.train.torch import TorchTrainer

from ..space import Outcome
from .training import Training, train, train_and_score

#: How often all processes of a training start again without a step in between.
RETRIES = 3


def train_together(training: Training, each: Mapping[str, float]) -> Outcome:
    """As :func:`~detkds.workers.training.train`, by ``training.schedule.processes`` processes.

    ``each``: CPUs (``cpu``) and GPUs (``gpu``) of a process. Processes with GPUs talk by ``nccl``,
    others by ``gloo``. This process needs neither: it starts the others, waits, and starts all of
    them again when one is lost or raises an exception: where a process is lost, the others raise
    exceptions too. They go on from the last state that was written, and give up after
    :data:`RETRIES` times in a row without a step.
    """
    return train(training, partial(_by_ray_train, each=each))


def _by_ray_train(training: Training, each: Mapping[str, float]) -> Outcome:
    # As any other worker, a process stays in the folder that it was started in.
    os.environ[RAY_CHDIR_TO_TRIAL_DIR] = "0"
    own = Path(training.folder) / "ray_train"
    while True:
        steps = training.progress()[0]
        try:
            _trainer(training, each, own).fit()
            break
        except TrainingFailedError as error:
            if training.progress()[0] <= steps:
                return Outcome.failed(str(error))
        finally:
            shutil.rmtree(own, ignore_errors=True)
    outcome = training.last_outcome()
    assert outcome is not None
    return outcome


def _trainer(training: Training, each: Mapping[str, float], own: Path) -> TorchTrainer:
    """Ray Train's trainer, which keeps its files in the folder ``own``."""
    return TorchTrainer(
        partial(train_and_score, training),
        scaling_config=ScalingConfig(
            num_workers=training.schedule.processes,
            use_gpu=each["gpu"] > 0,
            resources_per_worker={"CPU": each["cpu"], "GPU": each["gpu"]},
        ),
        run_config=RunConfig(
            name=own.name,
            storage_path=str(own.parent),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    )
