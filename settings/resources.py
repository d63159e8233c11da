"""The section ``resources``: what a process may use, and where trials and trainings run."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

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
    #: Whether the Ray that starts here has its dashboard.
    dashboard: bool = True
    #: The address of this machine that the dashboard listens at. 0.0.0.0 lets those in from other
    #: machines who have the token. None: this machine alone reaches the dashboard.
    dashboard_host: str | None = None
    #: The dashboard's port. None: 8265, or the next one that is free.
    dashboard_port: int | None = Field(default=None, ge=1, le=65535)
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

    @field_validator("dashboard_host", "dashboard_port")
    @classmethod
    def _of_ray_here(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("address") is not None:
            raise ValueError(
                "the cluster of resources.address has its own dashboard: leave this out"
            )
        if value is not None and not info.data.get("dashboard"):
            raise ValueError("resources.dashboard=False leaves no dashboard: leave this out")
        return value
