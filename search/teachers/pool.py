"""The teachers of a config: trained if they have no weights, scored, their costs measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from torch.utils.data import DataLoader, Subset

from ...data.loading import build_dataset, build_metric
from ...db import CostRow, Store
from ...detectors import Signature
from ...settings import Data, Model, Split
from ...space import WrongUse, nearest
from ...workers.runner import score
from ...workers.student import SCORE, build_teacher
from ...workers.tasks import run_job
from ...workers.training import Training
from ..plans.checks import check_model, file_fingerprint, fingerprint
from ..plans.plan import Plan, plan_teacher, resolved, student_training, trained
from ..plans.trainings import Display, ready, train_all
from .adaptation import Cost, adaptation_costs, common_strides
from .order import Pool, teacher_order

STUDENT = "student"
BATCH = 4
#: Images that costs are measured on, where nothing else is said.
COST_IMAGES = 1000


@dataclass(frozen=True)
class PoolModel:
    """A model of a pool: how it is built, what identifies it, what it scores.

    ``training``: what has to run before it has weights, or None.
    """

    name: str
    model: Model
    key: str
    score: float | None
    training: Training | None
    signature: Signature


def pool_models(plan: Plan) -> list[PoolModel]:
    """The student first, then the config's teachers.

    A student without weights of its own is the one that the final table trains alone, under the
    first seed. Raises :class:`WrongUse` for fewer than two teachers, for one called student, and
    for levels without a common stride.
    """
    teachers = plan.config.teachers
    if STUDENT in teachers:
        raise WrongUse(f"teachers.{STUDENT}: the student is no teacher of its own; rename it")
    if len(teachers) < 2:
        raise WrongUse(f"teachers: the config has {len(teachers)}; an order needs at least 2")
    models = [_student(plan)]
    for name, teacher in teachers.items():
        model = Model(**teacher.model_dump(exclude={"score"}))
        if model.checkpoint is None and model.schedule is None and plan.config.teacher:
            model = model.model_copy(update={"schedule": plan.config.teacher.schedule})
        training, key = plan_teacher(f"teachers.{name}", model, plan)
        model = resolved(model if training is None else trained(model, training))
        found = check_model(f"teachers.{name}", teacher, plan.classes)
        models.append(PoolModel(name, model, key, teacher.score, training, found))
    common_strides({one.name: one.signature.strides for one in models})
    return models


def _student(plan: Plan) -> PoolModel:
    model, own = plan.task.student, plan.signatures[0]
    if model.checkpoint is not None:
        key = fingerprint([model.model_dump(), file_fingerprint(model.checkpoint)])
        return PoolModel(STUDENT, model, key, None, None, own)
    final = plan.config.final
    if final is None:
        raise WrongUse("student.checkpoint: costs need a trained student; give one, or `final`")
    schedule = final.schedule.model_dump()
    training = student_training(plan, "none", None, schedule, final.seeds[0])
    key = fingerprint([plan.student_key, schedule, training.seed])
    return PoolModel(STUDENT, trained(model, training), key, None, training, own)


def measured_costs(
    models: list[PoolModel],
    plan: Plan,
    store: Store,
    images: int,
    run: Callable[[Callable[[], dict]], dict],
) -> list[CostRow]:
    """The costs of all pairs, from the store, or by one pass of every model over the images.

    ``run`` runs a function where there is a device for it. The images are the first of the proxy's
    training images, one in five batches held out.
    """
    split = plan.proxy[0]
    sizes = plan.config.data.image_size, plan.config.data.teacher_image_size
    data = fingerprint([file_fingerprint(split.annotations), *sizes, images])
    keys = {one.key: one.name for one in models}
    known = {(row.source_key, row.target_key): row for row in store.costs(data, keys)}
    pairs = [(a.key, b.key) for a in models for b in models if a.key != b.key]
    if not all(pair in known for pair in pairs):
        job = partial(
            cost_job,
            {one.key: one.model for one in models},
            {models[0].key: plan.config.data.student_scale},
            split,
            plan.config.data,
            images,
            plan.task.threads,
        )
        found: dict[tuple[str, str], Cost] = run(job)
        store.add_costs(
            CostRow(
                data=data,
                source=keys[source],
                source_key=source,
                target=keys[target],
                target_key=target,
                cost=cost.held_out,
                fit=cost.fit,
                levels={str(stride): list(pair) for stride, pair in cost.levels.items()},
                images=images,
                created=datetime.now(timezone.utc),
            )
            for (source, target), cost in found.items()
        )
        known = {(row.source_key, row.target_key): row for row in store.costs(data, keys)}
    return [known[pair] for pair in pairs]


def cost_job(
    models: dict[str, Model],
    scales: dict[str, float],
    split: Split,
    data: Data,
    images: int,
    threads: int,
) -> dict[tuple[str, str], Cost]:
    """Build the models and measure: plain data in and out, for a worker."""
    torch.set_num_threads(threads)
    dataset = build_dataset(split, data.for_teachers, training=False)
    subset = Subset(dataset, range(min(images, len(dataset))))
    loader = DataLoader(subset, BATCH, collate_fn=pseudo_collate)
    built = {key: build_teacher(model).to(get_device()).eval() for key, model in models.items()}
    return adaptation_costs(built, loader, scales)


def score_job(model: Model, split: Split, data: Data, threads: int) -> dict[str, float]:
    """COCO's box metrics of a trained model on a split."""
    torch.set_num_threads(threads)
    dataset = build_dataset(split, data.for_teachers, training=False)
    return score(build_teacher(model), dataset, build_metric(split, dataset))


def make_pool(
    models: list[PoolModel],
    costs: list[CostRow],
    plan: Plan,
    run: Callable[[Callable[[], dict]], dict],
) -> Pool:
    """Costs and scores by name. A teacher without a score is scored on the proxy's validation."""
    names = {one.key: one.name for one in models}
    table: dict[str, dict[str, float]] = {one.name: {} for one in models}
    for row in costs:
        table[names[row.source_key]][names[row.target_key]] = row.cost
    scores = {}
    for one in models[1:]:
        if one.score is None:
            job = partial(score_job, one.model, plan.proxy[1], plan.config.data, plan.task.threads)
            scores[one.name] = 100 * run(job).get(SCORE, 0.0)
        else:
            scores[one.name] = one.score
    return Pool(STUDENT, scores, table)


def named(models: list[PoolModel], names: list[str]) -> list[PoolModel]:
    """The teachers of these names, in their order. Raises :class:`WrongUse` for a wrong list."""
    known = {one.name: one for one in models[1:]}
    for name in names:
        if name == STUDENT:
            raise WrongUse("--teachers: the student is no teacher of its own; leave it out")
        if name not in known:
            raise WrongUse(
                f"--teachers: the config has no teacher '{name}': {nearest(name, known)}"
            )
    if len(set(names)) < len(names):
        raise WrongUse(f"--teachers {','.join(names)}: one stands there twice")
    if len(names) < 2:
        raise WrongUse(
            f"--teachers {','.join(names)}: one teacher is no sequence; leave the option out to "
            "train under the config's `teacher`"
        )
    return [known[name] for name in names]


def run_order(
    plan: Plan, models: list[PoolModel], store: Store, display: Display, images: int
) -> Pool:
    """The costs and scores of a config's student and teachers: trained and measured as needed."""
    with ready(plan, display):
        return measured_pool(plan, models, store, display, images)


def measured_pool(
    plan: Plan, models: list[PoolModel], store: Store, display: Display, images: int
) -> Pool:
    """Inside of a cluster: what is not trained is trained, what is not known is measured."""
    train_all([m.training for m in models if m.training], plan, display, store)
    job = partial(run_job, plan.config.resources)
    display.say(f"adaptation costs of {len(models)} models on up to {images} images")
    costs = measured_costs(models, plan, store, images, job)
    return make_pool(models, costs, plan, job)


def ordered(
    models: list[PoolModel], pool: Pool, algorithm: str = "bgs", most: int | None = None
) -> list[PoolModel]:
    """The models of the teacher order, first to last."""
    by_name = {one.name: one for one in models}
    return [by_name[name] for name in teacher_order(pool, algorithm, most).teachers]
