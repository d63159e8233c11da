"""Before the first trial: everything checked without a trace, then data, teacher and warm-up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..configs import distiller_file
from ..data import (
    CLASSES,
    check_split,
    class_names,
    make_shapes,
    read_annotations,
    shapes_files,
)
from ..detectors import (
    Signature,
    build_detector,
    load_checkpoint,
    load_weights,
    model_config,
    num_classes,
    signature,
    without_pretrained,
)
from ..distillers import available_knowledge, check_pair, responses_differ
from ..space import Distiller, SearchSpace, WrongUse
from ..workers.ray_engine import check_machine
from ..workers.settings import Model, Schedule, Split, Task
from ..workers.training import Training
from .proxy import check_disjoint, check_sizes, write_proxy
from .settings import SearchConfig


@dataclass(frozen=True)
class Plan:
    """A search that has passed its checks: what it will use, and nothing of it made yet."""

    config: SearchConfig
    folder: Path
    space: SearchSpace
    signatures: tuple[Signature, Signature]
    train: Split
    test: Split | None
    proxy: tuple[Split, Split]
    teacher: Training | None
    warmup: Training | None
    task: Task
    conditions: str
    compare: dict[str, Distiller | None]

    @property
    def seed(self) -> int:
        return self.config.search.seed

    @property
    def preliminary(self) -> list[Training]:
        """The trainings that trials wait for: a teacher without weights, the warm-up."""
        return [training for training in (self.teacher, self.warmup) if training is not None]


def fingerprint(content: Any) -> str:
    """A stable hash of JSON content: 16 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


def make_plan(config: SearchConfig, folder: Path) -> Plan:
    """Check a configuration whole. Raises :class:`WrongUse`; writes nothing."""
    folder = folder.absolute()
    check_machine(config.resources)
    classes, train, test, data_key = _check_data(config, folder)
    signatures = _check_models(config, classes)
    space = _check_knowledge(config, signatures)
    proxy, proxy_key = _check_proxy(config, train, folder, data_key)
    compare = _check_compare(config, signatures)
    teacher, teacher_key = _plan_teacher(config, train, folder, data_key)
    warmup = _plan_warmup(config, proxy[0], folder, proxy_key)
    task = Task(
        student=_resolved(config.student),
        teacher=_resolved(config.teacher if teacher is None else _trained(config.teacher, teacher)),
        data=config.data,
        threads=config.resources.threads,
    )
    conditions = fingerprint(
        {
            "student": _model_key(config.student),
            "teacher": teacher_key,
            "proxy": proxy_key,
            "image_size": config.data.image_size,
            "flip": config.data.flip,
            "trial": config.trial.model_dump(),
            "seed": config.search.seed,
            "version": __version__.rsplit(".", 1)[0],
        }
    )
    return Plan(
        config,
        folder,
        space,
        signatures,
        train,
        test,
        proxy,
        teacher,
        warmup,
        task,
        conditions,
        compare,
    )


def make_data(plan: Plan) -> None:
    """Write what the plan says is not there yet: the synthetic set and the proxy's files."""
    data, proxy = plan.config.data, plan.config.proxy
    if data.synthetic is not None:
        make_shapes(plan.folder / "data", **data.synthetic.model_dump())
    if proxy.train is None and not all(Path(split.annotations).is_file() for split in plan.proxy):
        folder = Path(plan.proxy[0].annotations).parent
        write_proxy(
            plan.train.annotations, proxy.train_images, proxy.val_images, folder, proxy.seed
        )


def _check_data(
    config: SearchConfig, folder: Path
) -> tuple[tuple[str, ...], Split, Split | None, str]:
    """Class names, the splits, and a hash of what they hold."""
    data = config.data
    if data.synthetic is not None:
        files = shapes_files(folder / "data")
        train, test = (
            Split(annotations=str(path), images=str(files.images))
            for path in (files.train, files.test)
        )
        return CLASSES, train, test, fingerprint({"synthetic": data.synthetic.model_dump()})
    assert data.train is not None
    document = check_split(data.train.annotations, data.train.images)
    classes = class_names(document)
    if data.test is not None:
        there = class_names(check_split(data.test.annotations, data.test.images))
        if there != classes:
            raise WrongUse(
                f"{data.test.annotations}: its classes {list(there)} differ from {list(classes)} "
                f"of {data.train.annotations}"
            )
        check_disjoint(data.train.annotations, data.test.annotations)
    return classes, data.train, data.test, file_fingerprint(data.train.annotations)


def _check_models(config: SearchConfig, classes: tuple[str, ...]) -> tuple[Signature, Signature]:
    """Build both, load the teacher's weights if it has some, compare classes with the data's."""
    signatures = []
    for name, model in (("student", config.student), ("teacher", config.teacher)):
        built = build_detector(
            without_pretrained(model_config(model.config, model.cfg_options)), name
        )
        there = num_classes(built)
        if there is not None and there != len(classes):
            raise WrongUse(
                f"{name}: its head has {there} classes and the data have {len(classes)} "
                f"({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}): set "
                f"{name}.cfg_options.'model.bbox_head.num_classes' to {len(classes)}"
            )
        if model.checkpoint is not None:
            load_weights(built, model.checkpoint, trust=model.trust_checkpoint)
            _check_class_names(name, model, classes)
        signatures.append(signature(built, name))
    return signatures[0], signatures[1]


def _check_class_names(name: str, model: Model, classes: tuple[str, ...]) -> None:
    assert model.checkpoint is not None
    meta = load_checkpoint(model.checkpoint, trust=model.trust_checkpoint).get("meta") or {}
    names = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    if names is not None and tuple(names) != classes:
        raise WrongUse(
            f"{model.checkpoint}: the {name} was trained for classes {list(names)[:5]}, the data "
            f"have {list(classes)[:5]}: they must be the same in the same order"
        )


def _check_knowledge(config: SearchConfig, signatures: tuple[Signature, Signature]) -> SearchSpace:
    space = SearchSpace.preset(config.search.space)
    available = available_knowledge(*signatures)
    asked = config.search.knowledge or available
    lacking = [knowledge for knowledge in asked if knowledge not in available]
    if lacking:
        raise WrongUse(
            f"search.knowledge: the pair has no '{lacking[0]}': {responses_differ(*signatures)}; "
            f"use {', '.join(available)}"
        )
    return space.only(asked)


def _check_proxy(
    config: SearchConfig, train: Split, folder: Path, data_key: str
) -> tuple[tuple[Split, Split], str]:
    proxy = config.proxy
    if proxy.train is not None and proxy.val is not None:
        for split in (proxy.train, proxy.val):
            if not check_split(split.annotations, split.images)["images"]:
                raise WrongUse(f"{split.annotations}: the proxy holds no image")
        check_disjoint(proxy.train.annotations, proxy.val.annotations)
        return (proxy.train, proxy.val), fingerprint(
            [file_fingerprint(s.annotations) for s in (proxy.train, proxy.val)]
        )
    if config.data.synthetic is not None:
        check_sizes(proxy.train_images, proxy.val_images, config.data.synthetic.train)
    else:
        document = read_annotations(train.annotations)
        check_sizes(proxy.train_images, proxy.val_images, len(document["images"]))
    key = fingerprint([data_key, proxy.train_images, proxy.val_images, proxy.seed])
    names = [folder / f"proxy-{key}" / f"{split}.json" for split in ("train", "val")]
    first, second = (Split(annotations=str(name), images=train.images) for name in names)
    return (first, second), key


def _check_compare(
    config: SearchConfig, signatures: tuple[Signature, Signature]
) -> dict[str, Distiller | None]:
    """The hand-made distillers of the final table, by the name they get there."""
    compare: dict[str, Distiller | None] = {}
    for reference in config.final.compare if config.final else []:
        if reference in ("none", "found"):
            compare[reference] = None
            continue
        distiller = Distiller.from_json(distiller_file(reference))
        check_pair(distiller, *signatures)
        compare[Path(reference).stem] = distiller
    return compare


def _plan_teacher(
    config: SearchConfig, train: Split, folder: Path, data_key: str
) -> tuple[Training | None, str]:
    """The teacher's training, if it has no weights; and what identifies the teacher."""
    model = config.teacher
    if model.checkpoint is not None:
        return None, fingerprint([_model_key(model), file_fingerprint(model.checkpoint)])
    if model.schedule is None:
        raise WrongUse(
            "teacher.checkpoint: the teacher has no weights; give a checkpoint, or "
            "teacher.schedule to train it first"
        )
    key = fingerprint([_model_key(model), data_key, model.schedule.model_dump(), config.data.flip])
    training = Training(
        name="teacher",
        model=model.model_copy(update={"schedule": None}),
        schedule=model.schedule,
        train=train,
        data=config.data,
        seed=0,
        threads=config.resources.threads,
        folder=str(folder / f"teacher-{key}"),
    )
    return training, key


def _plan_warmup(
    config: SearchConfig, train: Split, folder: Path, proxy_key: str
) -> Training | None:
    schedule = config.trial.warmup
    if schedule is None:
        return None
    key = fingerprint(
        [_model_key(config.student), proxy_key, schedule.model_dump(), config.search.seed]
    )
    return Training(
        name="warm-up",
        model=_resolved(config.student),
        schedule=schedule,
        train=train,
        data=config.data,
        seed=config.search.seed,
        threads=config.resources.threads,
        folder=str(folder / f"warmup-{key}"),
    )


def _trained(model: Model, training: Training) -> Model:
    return model.model_copy(update={"checkpoint": str(training.checkpoint), "schedule": None})


def _resolved(model: Model) -> Model:
    """The same model without reference to config files: read once, not in every trial."""
    whole = model_config(model.config, model.cfg_options).to_dict()
    return model.model_copy(update={"config": whole, "cfg_options": {}})


def _model_key(model: Model) -> str:
    """What a model is, whatever file it comes from."""
    config = model_config(model.config, model.cfg_options).to_dict()
    start = file_fingerprint(model.checkpoint) if model.checkpoint else None
    return fingerprint([config, start])


def final_trainings(plan: Plan, found: Distiller) -> list[Training]:
    """The final table's trainings: each distiller under each seed, same schedule and data."""
    final = plan.config.final
    assert final is not None
    schedule = final.model_dump(exclude={"seeds", "compare"})
    trainings = []
    for seed in final.seeds:
        for name, preset in plan.compare.items():
            distiller = found if name == "found" else preset
            document = None if distiller is None else replace(distiller, name=name).to_dict()
            trainings.append(student_training(plan, name, document, schedule, seed))
    return trainings


def student_training(
    plan: Plan, name: str, document: dict | None, schedule: dict, seed: int
) -> Training:
    """One full training of the plan's student, with or without a distiller."""
    form = None if document is None else Distiller.from_dict(document).key
    key = fingerprint([plan.task.model_dump(), form, schedule, plan.train.model_dump()])
    return Training(
        name=name,
        model=plan.task.student,
        teacher=plan.task.teacher,
        distiller=document,
        schedule=Schedule(**schedule),
        train=plan.train,
        test=plan.test,
        data=plan.config.data,
        seed=seed,
        threads=plan.task.threads,
        folder=str(plan.folder / "trained" / f"{name}-seed{seed}-{key[:8]}"),
    )
