"""Full trainings over several processes by Ray Train, on two nodes of one CPU each."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import importable_by_workers
from detkds.data import make_shapes
from detkds.settings import Data, Model, Resources, Schedule
from detkds.space import Distiller, Outcome, Status
from detkds.workers.cluster import cluster
from detkds.workers.tasks import run_trainings
from detkds.workers.training import Training, train
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from ray.cluster_utils import Cluster
from thin_detectors import thin_config, thin_detector

pytestmark = pytest.mark.slow

EPOCHS, ITERATIONS, BATCH = 2, 10, 4
#: Terms with adapters, of the batch's statistics, of boxes, of positives, and across heads. Others
#: let a difference in the last digit grow faster (``test_batches`` has all of them).
FORM = Distiller.parse(
    """global: identity, pearson × 0.2; fgbg: scale_2, l2 × 0.001; logits: norm_n, l2
    localization: sigmoid, ciou; cross_logits: after_1, quality_focal"""
)
TWO_LAYERS = {"model.bbox_head.stacked_convs": 2}
WIDER = {**TWO_LAYERS, "neck": 24}


class Draws(Hook):
    """Draws a random number before every iteration, in every process, and writes it down.

    With ``killed_before``, the second process dies before that iteration, if none has died here.
    """

    def __init__(self, folder: str, killed_before: int | None = None) -> None:
        self.folder, self.killed_before = Path(folder), killed_before

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        rank, marker = get_rank(), self.folder / "killed"
        self.folder.mkdir(exist_ok=True)
        if runner.iter == self.killed_before and rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"{rank}-{runner.iter}").write_text(str(torch.rand(()).item()))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Resources]:
    with importable_by_workers():
        head = {"num_cpus": 1, "include_dashboard": False}
        started = Cluster(initialize_head=True, head_node_args=head)
        started.add_node(num_cpus=1)
        resources = Resources(address=started.address, gpus=0)
        with cluster(resources):
            yield resources
        started.shutdown()


def training(folder: Path, processes: int, **job: Any) -> Training:
    """mmdet divides FCOS's losses by means over processes, RetinaNet's by each process's own.

    The backbone's batch norm keeps its statistics, which are otherwise those of a process's images.
    No flips, which each process draws for itself. The learning rate is scaled by all processes'
    images of a step.
    """
    shapes = folder.parent / "shapes"
    files = make_shapes(shapes, train=ITERATIONS * BATCH, val=1, test=5, size=64)
    split = {"annotations": str(files.train), "images": str(files.images)}
    still = {"model.backbone.norm_eval": True, "model.test_cfg.score_thr": 0.0}
    weights = folder.parent / "teacher.pth"
    if not weights.is_file():
        torch.save({"state_dict": thin_detector("fcos", 1, **WIDER).state_dict()}, weights)
    return Training(
        name="together",
        model=Model(config=thin_config("fcos", **TWO_LAYERS, **still).to_dict()),
        teachers=[Model(config=thin_config("fcos", **WIDER).to_dict(), checkpoint=str(weights))],
        distiller=FORM.to_dict(),
        schedule=Schedule(
            epochs=EPOCHS,
            batch_size=BATCH // processes,
            processes=processes,
            optim_wrapper={
                "optimizer": {"type": "SGD", "lr": 0.008, "momentum": 0.9},
                "clip_grad": {"max_norm": 35},
            },
        ),
        train=split,
        test={**split, "annotations": str(files.test)},
        job={"auto_scale_lr": {"enable": True, "base_batch_size": 2 * BATCH}, **job},
        data=Data(train=split, image_size=(64, 64), flip=0.0, cache_megabytes=0),
        seed=0,
        folder=str(folder),
    )


def state(done: Training) -> dict[str, torch.Tensor]:
    return torch.load(done.checkpoint, weights_only=True)["state_dict"]


def run(one: Training, resources: Resources) -> Outcome:
    (outcome,) = run_trainings([one], resources)
    return outcome


def drawing(folder: Path, **own: Any) -> Training:
    hook = {"type": f"{__name__}.Draws", "folder": str(folder / "drawn"), **own}
    return training(folder, processes=2, custom_hooks=[hook])


def drawn(done: Training, rank: int) -> list[str]:
    """The random numbers of a process in all iterations."""
    files = [Path(done.folder, "drawn", f"{rank}-{i}") for i in range(EPOCHS * ITERATIONS)]
    return [file.read_text() for file in files]


@pytest.fixture(scope="module")
def whole(nodes: Resources, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Two processes, unbroken."""
    unbroken = drawing(tmp_path_factory.mktemp("whole") / "run")
    outcome = run(unbroken, nodes)
    assert outcome.status is Status.COMPLETED, outcome.error
    return unbroken


def test_two_processes_end_where_one_with_twice_the_batch_does(
    whole: Training, tmp_path: Path
) -> None:
    alone = training(tmp_path / "run", processes=1)
    outcome = train(alone)
    assert outcome.status is Status.COMPLETED, outcome.error
    start = thin_detector("fcos", 0, **TWO_LAYERS).state_dict()
    found, expected = state(whole), state(alone)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    moved = max(float((expected[name] - start[name]).abs().max()) for name in start)
    assert moved > 0.01, "the training goes somewhere"


def test_the_first_process_alone_writes_and_all_share_the_scoring(
    whole: Training, tmp_path: Path
) -> None:
    """Five test images, of which one process gets three and the other two."""
    left = {path.name for path in Path(whole.folder).iterdir() if path.is_file()}
    assert left == {"student.pth", "outcome.json", "progress.json", "training.lock"}
    assert len(list(Path(whole.folder).glob("*/*.log"))) == 1
    assert whole.progress() == (EPOCHS * ITERATIONS, EPOCHS * ITERATIONS)
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "outcome.json").unlink()
    again = train(whole.model_copy(update={"folder": str(tmp_path)}))
    assert again.metrics["bbox_mAP"] > 0
    assert whole.finished().metrics == pytest.approx(again.metrics)


def test_processes_draw_numbers_of_their_own(whole: Training) -> None:
    assert not set(drawn(whole, 0)) & set(drawn(whole, 1))


def test_a_training_that_loses_a_process_ends_where_an_unbroken_one_does(
    nodes: Resources, whole: Training, tmp_path: Path
) -> None:
    """It goes on after the first epoch, with the random numbers of both processes."""
    broken = drawing(tmp_path / "run", killed_before=ITERATIONS + 5)
    outcome = run(broken, nodes)
    assert outcome.status is Status.COMPLETED, outcome.error
    assert Path(broken.folder, "drawn", "killed").exists()
    torch.testing.assert_close(state(broken), state(whole), rtol=0, atol=1e-6)
    assert outcome.metrics == whole.finished().metrics
    assert [drawn(broken, rank) for rank in (0, 1)] == [drawn(whole, rank) for rank in (0, 1)]
    assert not list(Path(broken.folder).glob("resume.pth*"))
