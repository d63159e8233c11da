"""The section ``resources``: what a process may use, and where trials and trainings run."""

from __future__ import annotations

from pydantic import Field, field_validator

from .base import Settings


class Resources(Settings):
    """What the process of a trial, or each process of a training, may use, and where."""

    #: The number of trials side by side. None: as many as the cluster has room for.
    workers: int | None = Field(default=None, ge=1)
    #: CPUs of a process. A trial runs in one; a training in as many as ``final.processes`` says.
    cpus: float = Field(default=1, gt=0)
    #: GPUs of a process: 0, 1, or a part of one. None: one GPU, if the cluster has GPUs.
    gpus: float | None = Field(default=None, ge=0)
    #: torch's threads in each worker.
    threads: int = Field(default=1, ge=1)
    #: ``auto`` or host:port joins a Ray cluster. None: detkds starts Ray on this machine.
    address: str | None = None
    #: Whether Ray's dashboard is started.
    dashboard: bool = True
    #: Seconds that a search or training waits for a database that does not answer, is read-only,
    #: has a full disk or is locked by another program. Then it ends, to be resumed.
    patience: float = Field(default=600, ge=0)

    #: Seconds that a trial may take; then another worker tries it, and then it has failed. None:
    #: five times what trials of the search take, ten minutes at least.
    trial_deadline: float | None = Field(default=None, gt=0)
    #: Seconds that a training may take no step, or wait for another process that takes none in its
    #: folder; then another worker goes on, and then it has failed. None: a tenth of what trainings
    #: of its kind take, an hour at least.
    training_deadline: float | None = Field(default=None, gt=0)

    @field_validator("gpus")
    @classmethod
    def _one_gpu(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1:
            raise ValueError(
                "a process runs on one GPU; ask for 1, or for a part of one. final.processes, or "
                "--gpus of `detkds train`, spreads a training over several"
            )
        return gpus
