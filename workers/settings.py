"""What a trial and a training are told, validated: models, data, schedules, resources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """Unknown keys are errors: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid")


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


#: A path or an address; relative paths are made whole, since a worker may run in another folder.
FilePath = Annotated[str, AfterValidator(_absolute)]


class Schedule(Settings):
    """How long and with what a model is trained: mmengine's ``optim_wrapper`` and schedulers."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]] = []


class TrialSchedule(Schedule):
    """A trial's short schedule. ``warmup``: a training of the student alone, made once and cached,

    that all trials start from, so that they compare candidates and not first steps from nothing.
    """

    warmup: Schedule | None = None


class Model(Settings):
    """A detector: an mmdet config (``mmdet::…`` or a path), options merged into it, its weights.

    A teacher without a checkpoint is trained once with ``schedule`` and cached. ``imports``:
    modules that register what the config names; those of its ``custom_imports`` are taken along.
    """

    config: str | dict[str, Any]
    cfg_options: dict[str, Any] = {}
    imports: list[str] = []
    checkpoint: FilePath | None = None
    trust_checkpoint: bool = False
    schedule: Schedule | None = None


class Split(Settings):
    """A COCO-format annotation file and the folder its file names start from."""

    annotations: FilePath
    images: FilePath


class Synthetic(Settings):
    """Images of shapes, made on the spot: how many a split, and how many pixels a side."""

    train: int = Field(default=600, ge=1)
    val: int = Field(default=200, ge=1)
    test: int = Field(default=200, ge=1)
    size: int = Field(default=128, ge=32)
    seed: int = Field(default=0, ge=0)


class Data(Settings):
    """The data set: real splits, or ``synthetic`` to make one on the spot.

    ``image_size`` is (width, height): images are resized into it, their aspect ratio kept.
    ``teacher_image_size``: a teacher that looks at larger ones; the student's are shrunk from them.
    ``test`` is looked at by the final table alone; trials are scored on the proxy.
    ``cache_megabytes``: of decoded training images, as much again of the proxy's validation images
    and of the teacher's knowledge, that a worker keeps; what is beyond is decoded, or seen by the
    teacher, every time. ``num_workers``: processes that decode images beside each training, which
    then keeps none; for a set that is far larger than the cache.
    """

    train: Split | None = None
    test: Split | None = None
    synthetic: Synthetic | None = None
    image_size: tuple[int, int]
    teacher_image_size: tuple[int, int] | None = None
    flip: float = Field(default=0.5, ge=0, le=1)
    cache_megabytes: int = Field(default=1024, ge=0)
    num_workers: int = Field(default=0, ge=0)

    @property
    def train_size(self) -> tuple[int, int]:
        """What training images are resized into."""
        return self.teacher_image_size or self.image_size

    @property
    def student_scale(self) -> float:
        """What the student's images are shrunk by from those."""
        return min(self.image_size) / min(self.train_size)

    @model_validator(mode="after")
    def _teacher_sees_more(self) -> Data:
        if self.student_scale > 1:
            raise ValueError("data.teacher_image_size is below data.image_size; leave it out")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.train is None) == (self.synthetic is None):
            raise ValueError("give either data.train or data.synthetic")
        return self


class Resources(Settings):
    """What one trial may use, and where. ``gpus`` None: one if there is one; a part of one is fine.

    ``workers`` None: as many as fit. ``address``: None starts Ray here, ``auto`` or host:port
    joins a cluster. ``threads``: torch's threads per worker.
    """

    workers: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    threads: int = Field(default=1, ge=1)
    address: str | None = None
    dashboard: bool = True

    @field_validator("gpus")
    @classmethod
    def _one_gpu(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1:
            raise ValueError("a training runs on one GPU; ask for 1, or for a part of one")
        return gpus


class Task(Settings):
    """Everything a worker needs to train the student once: plain data, the same on any host."""

    student: Model
    teacher: Model | None
    inherit: bool = False
    data: Data
    threads: int = 1

    @field_validator("student")
    @classmethod
    def _no_schedule(cls, student: Model) -> Model:
        if student.schedule is not None:
            raise ValueError("a student is trained by `trial` and `final`, not by its own schedule")
        return student
