"""The config of a search: all its sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ..space import KNOWLEDGE, NONE, nearest
from ..space.errors import check_name
from .base import Settings
from .data import Data, Split
from .models import Model, Schedule, TrialSchedule
from .resources import Resources

#: In ``search.start``: all shipped distillers that student and teacher can share.
PRESETS = "presets"
#: The names, in ``final.compare``, of what the search decides on: the distiller that it exports,
#: the best preset that it started from, and the exported distiller along the teacher order.
FOUND, BEST_PRESET, PROGRESSIVE = "found", "best_preset", "progressive"


class Proxy(Settings):
    """The images that trials train on and are scored on, all from the training split.

    The config gives either the numbers of images, or two splits as ``detkds proxy`` writes them.
    """

    #: Images that a trial trains on.
    train_images: int = 0
    #: Images that a trial is scored on.
    val_images: int = 0
    #: The seed of the draw.
    seed: int = 0
    #: The split that a trial trains on, in place of a number.
    train: Split | None = None
    #: The split that a trial is scored on, in place of a number.
    val: Split | None = None

    @model_validator(mode="after")
    def _both(self) -> Proxy:
        if (self.train is None) != (self.val is None):
            raise ValueError("give both proxy.train and proxy.val, or neither")
        return self


def _known_knowledge(name: str) -> str:
    if name not in KNOWLEDGE:
        raise ValueError(f"unknown knowledge '{name}': {nearest(name, KNOWLEDGE)}")
    return name


def _folder_name(name: str) -> str:
    """A teacher's name, which its trainings' folders have as well."""
    check_name(name, "teachers")
    return name


class Search(Settings):
    """What is searched, and by which algorithm. The numbers are those of DetKDS, Section 4.1."""

    #: The search space: all that student and teacher can share, or DetKDS's own, which lacks
    #: CrossKD's, SSSD's and MGD's knowledge.
    space: Literal["detkds", "extended"] = "extended"
    #: The algorithm that runs each stage, by its name: algorithm1, random, mcts,
    #: regularized_evolution, thompson, optuna:tpe, optuna:gp, optuna:cmaes or optuna:nsga2.
    algorithm: str = "algorithm1"
    #: Divide and conquer: a stage for each kind of knowledge, then the weights of the terms found.
    #: False: one stage of whole distillers.
    divide: bool = True
    #: Without stages, the number of candidates, those of ``start`` included. None: as many as
    #: Algorithm 1 takes with stages.
    trials: int | None = Field(default=None, ge=1)
    #: The unit of the space's weights: ``plain``, or ``share``, of the size of the detection loss's
    #: gradient. What is exported has plain weights, and ``start`` may have either.
    weight_unit: Literal["plain", "share"] = "plain"
    #: The kinds of knowledge, a stage each. None: all that student and teacher can share.
    knowledge: list[Annotated[str, AfterValidator(_known_knowledge)]] | None = None
    #: The distillers that are scored first, and whose terms the populations start from:
    #: ``presets`` for all shipped ones that student and teacher can share, ``none`` for the student
    #: alone, shipped names, distiller files, arrow notation, or ``search:NAME`` for the best of
    #: each stage of an earlier search. An empty list starts from nothing.
    start: list[str] = [NONE, PRESETS]
    #: P of Algorithm 1: members of a stage's population.
    population: int = Field(default=20, ge=1)
    #: T of Algorithm 1: iterations of a stage, two candidates each.
    iterations: int = Field(default=40, ge=0)
    #: r of Algorithm 1: the share of the population that a parent is chosen from.
    sample_ratio: float = Field(default=0.9, gt=0, le=1)
    #: k of Algorithm 1: a parent is one of the k best of that share.
    top_k: int = Field(default=5, ge=1)
    #: Candidates of the ``weights`` stage.
    weights: int = Field(default=40, ge=1)
    #: Whether a worker tries a candidate on a stored batch before it trains a student: DetKDS's
    #: distiller filter. A trial whose loss is NaN or above 100 ends in either case.
    filter: bool = True
    #: Whether trials are stopped halfway. With algorithm1 and random, a trial is stopped that, to
    #: be a parent or the best, would have to rise further above its early score than any trial of
    #: the search has risen. With other algorithms, the best third of early scores goes on.
    early_stop: bool = True
    #: The seed of the search, and of every trial.
    seed: int = 0


class Final(Schedule):
    """The full trainings after a search: each row of ``compare`` under each of ``seeds``."""

    #: The seeds of the trainings.
    seeds: list[int] = Field(default=[0], min_length=1)
    #: ``none`` (the student alone), ``found``, ``best_preset`` (of those that the search started
    #: from), a preset's name, a distiller file, or ``progressive``: the found distiller along the
    #: order of the config's ``teachers``.
    compare: list[str] = ["none", "best_preset", "found"]
    #: Whether trainings under several teachers start from the student that is trained alone under
    #: the same schedule and seed, as MTPD's do (Section 4.2). The student then has these epochs
    #: twice, once alone. False: they start where all other trainings start. A student with a
    #: checkpoint starts from the checkpoint, and a student that inherits never starts from the
    #: trained student, whose neck and head would be lost.
    off_the_shelf: bool = True
    #: Epochs between two validations within a training; the last epoch is validated in any case. On
    #: ``data.val`` if there is one, else on the test split. None: as the student's own mmdet config
    #: says (``train_cfg.val_interval``); other trainings are scored once, at the end, since each
    #: validation takes the time of scoring.
    val_interval: int | None = Field(default=None, ge=1)
    #: Whether the student of the epoch with the best AP is kept as well, in
    #: ``best_coco_bbox_mAP_epoch_N.pth``; ``student.pth`` and all tables are those of the last
    #: epoch. Without ``data.val`` the test split chooses the epoch, as in mmdet: that AP is then no
    #: score of unseen images. None: as the student's own mmdet config says
    #: (``default_hooks.checkpoint.save_best``).
    save_best: bool | None = None
    #: Test images that the report shows with what the student alone, the distilled student and the
    #: teacher find in them. A search ends with one run of the three over up to 500 test images, for
    #: curves and errors by kind, too. 0: no such run.
    pictures: int = Field(default=6, ge=0)

    @property
    def schedule(self) -> Schedule:
        """The schedule alone."""
        return Schedule(**self.model_dump(include=set(Schedule.model_fields)))


class Confirm(Settings):
    """The trainings after the trials that decide which distiller is exported.

    The best trials, the best preset and the student alone are trained again on the proxy, under
    fresh seeds and longer. After every round the better half stays, and the best preset.
    """

    #: The best trials that are trained again, besides the best preset and the student alone.
    candidates: int = Field(default=4, ge=1)
    #: Rounds of successive halving.
    rounds: int = Field(default=2, ge=1)
    #: Fresh seeds that a contender is trained under in a round.
    seeds: int = Field(default=2, ge=1)
    #: Epochs of a training. None: twice as many as a trial has.
    epochs: int | None = Field(default=None, ge=1)


class Teacher(Model):
    """One of several teachers. Without checkpoint and schedule, it takes ``teacher.schedule``."""

    #: The teacher's AP in points. None: the AP is measured on ``data.val``, or, without this split,
    #: on the proxy's validation images, which the teacher may have been trained on.
    score: float | None = None
    #: (width, height) of the teacher's images, wherever the teacher is trained, scored, measured or
    #: learned from. None: the size of the single teacher's, ``data.teacher_image_size``.
    image_size: tuple[int, int] | None = None


class SearchConfig(Settings):
    """The whole config of a search."""

    #: The detector that is distilled into.
    student: Model
    #: The detector that the student learns from. None for a search of ``label`` alone, whose
    #: distillers learn from the labels.
    teacher: Model | None = None
    #: The teachers of a teacher order, by name.
    teachers: dict[Annotated[str, AfterValidator(_folder_name)], Teacher] = {}
    #: Whether a distilled student starts from its teacher's neck and head, as far as they fit.
    inherit: bool = False
    #: mmengine's config of the trainings, besides models, schedules and what ``data`` says:
    #: ``custom_hooks``, ``env_cfg``, … With a ``train_dataloader`` of its own, it also says how
    #: detectors see the images. A search of two mmdet configs has the student's here.
    job: dict[str, Any] = {}
    #: The data set.
    data: Data
    #: The part of the data set that trials use.
    proxy: Proxy
    #: The schedule of a trial.
    trial: TrialSchedule
    #: How the best trials are confirmed. None: the distiller of the best trial is exported.
    confirm: Confirm | None = Confirm()
    #: The full trainings. None: a search ends with its best trial.
    final: Final | None = None
    #: What is searched, and how.
    search: Search = Search()
    #: What trials and trainings may use of a machine.
    resources: Resources = Resources()

    @property
    def shared(self) -> dict[str, int]:
        """How many processes share a training, by the setting that says so, where several do."""
        schedules = {
            "final": self.final,
            "trial.warmup": self.trial.warmup,
            "teacher.schedule": self.teacher and self.teacher.schedule,
            **{f"teachers.{name}.schedule": one.schedule for name, one in self.teachers.items()},
        }
        found = {f"{name}.processes": one.processes for name, one in schedules.items() if one}
        return {name: processes for name, processes in found.items() if processes > 1}

    @property
    def confirm_schedule(self) -> Schedule | None:
        """The trials' schedule over ``confirm.epochs``; by default, twice as many as a trial has.

        None: nothing is confirmed.
        """
        if self.confirm is None:
            return None
        return self.trial.schedule.over(self.confirm.epochs or 2 * self.trial.epochs)

    @model_validator(mode="after")
    def _whole_gpus(self) -> SearchConfig:
        """Processes that share a training can't share a GPU."""
        gpus = self.resources.gpus
        for name, processes in self.shared.items():
            if gpus is not None and 0 < gpus < 1:
                raise ValueError(
                    f"resources.gpus={gpus:g} gives {processes} processes of one training "
                    f"({name}) a part of a GPU, and they can't share one: give each 1, or 0"
                )
        return self

    @model_validator(mode="after")
    def _validated(self) -> SearchConfig:
        """What validations are to choose needs validations, and these need images."""
        if self.final is None:
            return self
        if self.final.save_best and not (self.final.val_interval or self.job.get("val_cfg")):
            raise ValueError(
                "final.save_best chooses among validations, and there is one, at the end: give "
                "final.val_interval, the epochs between two"
            )
        if self.final.val_interval and not (self.data.test or self.data.val or self.data.synthetic):
            raise ValueError(
                "final.val_interval has no images to validate on: give data.val or data.test"
            )
        return self

    @model_validator(mode="after")
    def _one_look(self) -> SearchConfig:
        """Either ``data`` or the job's own loaders say how detectors see the images."""
        if "train_dataloader" not in self.job:
            if self.data.image_size is None:
                raise ValueError("data.image_size is missing")
            return self
        if self.data.synthetic is not None:
            raise ValueError(
                "data.synthetic stands beside job.train_dataloader, which has its own data set: "
                "leave one of them out"
            )
        if self.data.looks:
            raise ValueError(
                f"{self.data.looks[0]} stands beside job.train_dataloader, whose pipeline says how "
                "detectors see the images: leave one of them out"
            )
        return self
