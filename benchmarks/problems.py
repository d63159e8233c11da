"""The problems of the tabular benchmark, and the proxies that its trials run on, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detkds.data import class_names, read_annotations, write_together
from detkds.data.proxy import sample_proxy
from detkds.distillers import available_knowledge
from detkds.search.plans.checks import searched_space
from detkds.search.plans.plan import Plan, make_plan
from detkds.settings import Schedule, SearchConfig, Split, load_config
from detkds.space import SearchSpace, WrongUse
from spread import QUICK


@dataclass(frozen=True)
class Problem:
    """A pair of detectors, their data, and the schedules of teacher, trials and full trainings."""

    #: A search config and options for it.
    config: str
    options: tuple[str, ...]
    #: Images that a trial trains on and is scored on, all from the training split.
    train_images: int
    val_images: int
    #: Whether the data are COCO files in a folder that the user names: ``train.json``,
    #: ``test.json``, ``images/``, and ``val.json``, whose images score trials too.
    own_data: bool = False


_THREE = "cfg_options={'model.bbox_head.num_classes': 3}"

PROBLEMS = {
    "quickstart": Problem("quickstart", (), 360, 140),
    # Blood cells, 14 boxes an image. Its 205 training images leave 65 to score trials on, which are
    # few; with those of val.json they are 152.
    "bccd": Problem(
        "custom",
        (
            "data.image_size=(160,120)",
            f"student.{_THREE}",
            f"teacher.{_THREE}",
            "teacher.schedule.epochs=16",
            "trial.epochs=6",
            "final.epochs=9",
        ),
        140,
        65,
        own_data=True,
    ),
    # Up to 20 small shapes an image, and a teacher as thin as the student that is trained longer.
    "crowd": Problem(
        "quickstart",
        (
            "data.synthetic.objects=20",
            "data.synthetic.diameters=(0.06,0.2)",
            "data.synthetic.size=128",
            "data.image_size=(128,128)",
            "data.synthetic.train=400",
            "teacher.config=detkds::retinanet_r18_thin.py",
            "teacher.schedule.epochs=14",
        ),
        240,
        140,
    ),
    # The quickstart cut down to seconds.
    "quick": Problem("quickstart", (*QUICK, "final.epochs=1"), 80, 16),
}


@dataclass(frozen=True)
class Variant:
    """A proxy, in shares of the problem's own. The learning rate falls to zero in every variant."""

    #: Epochs of a trial.
    epochs: float = 1.0
    #: Images that a trial trains on.
    images: float = 1.0
    #: Epochs in which the student that all trials start from is trained alone, under a constant
    #: learning rate. 0: trials start from random weights.
    warmup: float = 0.0


VARIANTS = {
    "scratch": Variant(),
    "short": Variant(epochs=1 / 3),
    "few": Variant(images=1 / 3),
    "warm": Variant(epochs=1 / 2, warmup=2 / 3),
    "warm_short": Variant(epochs=1 / 6, warmup=2 / 3),
}


def plan_of(
    problem: str, variant: str, folder: Path, data: Path | None, more: Sequence[str] = ()
) -> Plan:
    """The plan of the problem with one proxy. All variants share ``folder`` and its teacher.

    ``more``: options besides the problem's own. Raises :class:`WrongUse` if the problem needs
    ``data`` and there are none.
    """
    one, how = PROBLEMS[problem], VARIANTS[variant]
    images = round(how.images * one.train_images)
    options = ["search.space=extended", *one.options]
    if one.own_data:
        if data is None:
            raise WrongUse(f"the problem '{problem}' has COCO files; give their folder", "--data")
        options += [
            f"data.{name}={_split(data / f'{name}.json', data).model_dump()}"
            for name in ("train", "test")
        ]
        proxy = _own_proxy(data, folder / f"images-{images}", images, one.val_images)
        options += [
            f"proxy.{name}={split.model_dump()}"
            for name, split in zip(("train", "val"), proxy, strict=True)
        ]
    else:
        options += [f"proxy.train_images={images}", f"proxy.val_images={one.val_images}"]
    return make_plan(_with_epochs(load_config(one.config, [*options, *more]), how), folder)


def _with_epochs(config: SearchConfig, how: Variant) -> SearchConfig:
    """The config with the variant's epochs, and its warm-up if it has one."""
    trial = config.trial
    warmup = None
    if how.warmup:
        epochs, first = round(how.warmup * trial.epochs), trial.param_scheduler[:1]
        own = {**trial.schedule.model_dump(), "epochs": epochs, "param_scheduler": first}
        warmup = Schedule(**own)
    epochs = max(1, round(how.epochs * trial.epochs))
    trial = trial.model_copy(update={"epochs": epochs, "warmup": warmup})
    return config.model_copy(update={"trial": trial})


def _split(annotations: Path, data: Path) -> Split:
    return Split(annotations=str(annotations), images=str(data / "images"))


def _own_proxy(data: Path, folder: Path, train: int, val: int) -> tuple[Split, Split]:
    """``train`` and ``val`` images of ``train.json``, the latter with those of ``val.json``."""
    files = folder / "train.json", folder / "val.json"
    if not all(file.is_file() for file in files):
        documents = [read_annotations(data / f"{name}.json") for name in ("train", "val")]
        names = [class_names(document) for document in documents]
        if names[0] != names[1]:
            raise WrongUse(f"{data}: train.json has classes {names[0]}, val.json {names[1]}")
        ours, more = sample_proxy(documents[0], train, val, seed=0)
        folder.mkdir(parents=True, exist_ok=True)
        write_together({files[0]: ours, files[1]: _joined(more, documents[1])})
    return _split(files[0], data), _split(files[1], data)


def _joined(first: dict, second: dict) -> dict:
    """Two COCO documents of equal classes as one, under new ids."""
    named = {category["name"]: category["id"] for category in first["categories"]}
    images: list[dict] = []
    annotations: list[dict] = []
    for document in (first, second):
        ids = {image["id"]: len(images) + i for i, image in enumerate(document["images"], 1)}
        names = {category["id"]: category["name"] for category in document["categories"]}
        images += [{**image, "id": ids[image["id"]]} for image in document["images"]]
        for box in document["annotations"]:
            own = {
                "image_id": ids[box["image_id"]],
                "category_id": named[names[box["category_id"]]],
            }
            annotations.append({**box, **own, "id": len(annotations) + 1})
    return {**first, "images": images, "annotations": annotations}


def space_of(plan: Plan) -> SearchSpace:
    """The extended space as far as the pair shares it, with kinds that no search has by default."""
    shared = available_knowledge(*plan.signatures)
    knowledge = [name for name in SearchSpace.preset("extended").knowledge if name in shared]
    search = plan.config.search.model_copy(update={"knowledge": knowledge, "space": "extended"})
    return searched_space(plan.config.model_copy(update={"search": search}), plan.signatures)
