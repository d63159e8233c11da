"""The costs and scores of a plan's student and teachers: known, or trained for and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from torch.utils.data import DataLoader, Subset

from ...data import read_annotations
from ...data.loading import build_dataset
from ...db import CostRow, Store
from ...settings import Data, Model, Split
from ...space import WrongUse, nearest
from ...workers.scoring import score_job
from ...workers.student import SCORE, build_teacher
from ...workers.tasks import run_job
from ..plans.keys import costs_key, split_key
from ..plans.plan import Plan
from ..plans.pool import STUDENT, PoolModel
from ..plans.trainings import Display, ready, train_all
from .adaptation import Cost, Size, adaptation_costs
from .order import Pool, teacher_order

#: Images a batch.
BATCH = 4
#: Images that costs are measured on, unless the user says otherwise.
COST_IMAGES = 1000
#: Runs a function on a worker and returns what the function returns.
Runner = Callable[[Callable[[], dict]], dict]


def chosen_teachers(plan: Plan, names: list[str]) -> list[PoolModel]:
    """The plan's teachers of these names, in their order.

    Raises :class:`WrongUse` for a name that is no teacher's, a name given twice, and a single name.
    """
    known = {one.name: one for one in plan.pool[1:]}
    for name in names:
        if name == STUDENT:
            raise WrongUse("the student is no teacher of its own; leave it out", "order")
        if name not in known:
            raise WrongUse(f"the config has no teacher '{name}': {nearest(name, known)}", "order")
    if len(set(names)) < len(names):
        raise WrongUse(f"{','.join(names)}: a teacher stands there twice", "order")
    if len(names) < 2:
        raise WrongUse(
            f"{','.join(names)}: one teacher is no sequence; leave the list out to train under the "
            "config's `teacher`",
            "order",
        )
    return [known[name] for name in names]


def scored_on(plan: Plan) -> Split:
    """The split that teachers without a score are scored on, which is never the test split."""
    return plan.val or plan.proxy[1]


def say_scores(plan: Plan, display: Display) -> None:
    """Say which teachers will be scored on images that they are, or may have been, trained on."""
    if plan.val is not None:
        return
    for one in plan.pool[1:]:
        if one.score is None:
            trained = "it is trained on" if one.training else "it may have been trained on"
            display.say(
                f"teachers.{one.name}.score: without it, {one.name} is scored on the proxy's "
                f"validation images, which {trained}, and may come out too high: give its AP in "
                "points, or images that no detector is trained on in data.val"
            )


def run_order(plan: Plan, store: Store, display: Display, images: int) -> Pool:
    """Train and measure what an order of the plan's teachers needs, and return the pool."""
    say_scores(plan, display)
    with ready(plan, display):
        return measured_pool(plan, store, display, images)


def measured_pool(plan: Plan, store: Store, display: Display, images: int) -> Pool:
    """The pool of a plan, on a cluster that runs: models train and costs are measured as needed.

    ``images``: the number of images that costs are measured on.
    """
    train_all([one.training for one in plan.pool if one.training], plan, display, store)
    run = partial(run_job, plan.config.resources)
    plan = replace(plan, pool=tuple(one.with_weights for one in plan.pool))
    display.say(f"adaptation costs of {len(plan.pool)} models on up to {images} images")
    costs = measured_costs(plan, store, images, run)
    return make_pool(plan, costs, run)


def ordered(
    plan: Plan, pool: Pool, algorithm: str = "bgs", max_teachers: int | None = None
) -> list[PoolModel]:
    """The plan's teachers in the order of the algorithm, first to last."""
    by_name = {one.name: one for one in plan.pool}
    return [by_name[name] for name in teacher_order(pool, algorithm, max_teachers).teachers]


def measured_costs(plan: Plan, store: Store, images: int, run: Runner) -> list[CostRow]:
    """The costs of all pairs, from the store, or by one pass of every model over the images.

    The images are the first of the proxy's training images; one batch in five is held out.
    """
    split, models = plan.proxy[0], plan.pool
    data = costs_key(split_key(split, read_annotations(split.annotations)), images)
    keys = {one.key: one.name for one in models}
    known = {(row.source_key, row.target_key): row for row in store.costs(data, keys)}
    pairs = [(a.key, b.key) for a in models for b in models if a.key != b.key]
    if not all(pair in known for pair in pairs):
        job = partial(
            cost_job,
            {one.key: one.model for one in models},
            {one.key: one.image_size for one in models},
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
    sizes: dict[str, Size],
    split: Split,
    data: Data,
    images: int,
    threads: int,
) -> dict[tuple[str, str], Cost]:
    """Build the models on a worker and measure the costs of all pairs.

    ``models``, and ``sizes``, those of their images, are by the model's key. Images of each size
    come from the files, whatever the sizes of the other models.
    """
    torch.set_num_threads(threads)
    loaders = {}
    for size in dict.fromkeys(sizes.values()):
        dataset = build_dataset(split, data.beside(size).for_teachers, training=False)
        subset = Subset(dataset, range(min(images, len(dataset))))
        loaders[size] = DataLoader(subset, BATCH, collate_fn=pseudo_collate)
    built = {key: build_teacher(model).to(get_device()).eval() for key, model in models.items()}
    return adaptation_costs(built, sizes, loaders)


def make_pool(plan: Plan, costs: list[CostRow], run: Runner) -> Pool:
    """Costs and scores by name. Teachers without a score are scored on :func:`scored_on`."""
    names = {one.key: one.name for one in plan.pool}
    table: dict[str, dict[str, float]] = {one.name: {} for one in plan.pool}
    for row in costs:
        table[names[row.source_key]][names[row.target_key]] = row.cost
    scores = {}
    for one in plan.pool[1:]:
        if one.score is None:
            data = plan.config.data.beside(one.image_size)
            own, threads = plan.config.job, plan.task.threads
            job = partial(score_job, one.model, scored_on(plan), data, own, threads)
            scores[one.name] = 100 * run(job).get(SCORE, 0.0)
        else:
            scores[one.name] = one.score
    return Pool(STUDENT, scores, table)
