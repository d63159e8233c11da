"""What trials show to mmengine's visualization backends."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from detkds.settings import Resources
from detkds.space import Candidate, Distiller, Status
from detkds.workers import ray_engine
from detkds.workers.scalars import EVERY, scalars_folder
from detkds.workers.trial import evaluate
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend

PAIR = "global: identity, l1 × 1; logits: softmax_c, kl × 2"


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return tiny.trial_context(tmp_path_factory.mktemp("scalars"))


@VISBACKENDS.register_module(force=True)
class Broken(BaseVisBackend):
    """A service that answers once, and then no more."""

    asked: list = []  # noqa: RUF012

    def __init__(self, save_dir, options):
        self.options = options

    experiment = _init_env = add_graph = add_image = add_scalar = None

    def add_config(self, config, **kwargs):
        Broken.asked.append((self.options, config))

    def add_scalars(self, *args, **kwargs):
        Broken.asked.append("scalars")
        raise ConnectionError("no route\nto the host")


def test_a_trial_shows_its_losses_and_scores(context, tmp_path, capfd):
    options = [{"name": "{name}", "project": "cells"}, 3]
    backends = [{"type": "LocalVisBackend"}, {"type": "Broken", "options": options}]
    backends += [{"type": "TensorboardVisBackend"}] * bool(find_spec("tensorboard"))
    schedule = context.schedule.model_copy(update={"vis_backends": backends, "epochs": 2})
    shown = replace(context, folder=tmp_path, name="cells", schedule=schedule)
    candidate = Candidate(17, "whole", Distiller.parse(PAIR), early_bar=0.0)
    folder = scalars_folder(tmp_path, "cells", candidate)
    assert folder == tmp_path / "cells.trials/17 global identity l1 + logits softmax_c kl"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("of an earlier try\n")
    Broken.asked = []

    outcome = evaluate(shown, candidate)

    assert outcome.status is Status.COMPLETED, outcome.error
    alone = evaluate(replace(context, schedule=schedule), candidate)
    assert outcome.score == alone.score, "who looks on changes nothing"
    lines = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
    *points, scores = lines
    assert all(point["loss"] > 0 and point["lr"] > 0 for point in points)
    steps = [point["step"] for point in points]
    assert steps == [*range(EVERY, steps[-1], EVERY), steps[-1]], "the last is a point, too"
    assert any("global" in name for name in points[0])
    assert scores["AP"] == outcome.score
    assert scores["early_AP"] == outcome.early_score
    assert scores["bbox_mAP_50"] == outcome.metrics["bbox_mAP_50"]
    assert "trial = 17" in (folder / "config.py").read_text()

    (named, config), *calls = Broken.asked
    name = "cells/17 global identity l1 + logits softmax_c kl"
    assert named == [{"name": name, "project": "cells"}, 3]
    assert config.distiller == str(candidate.distiller)
    assert calls == ["scalars"], "it is left out after its first failure"
    assert "Broken is left out of this trial: no route" in capfd.readouterr().out


@pytest.mark.skipif(not find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_reads_a_trial(context, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [{"type": "TensorboardVisBackend"}]
    schedule = context.schedule.model_copy(update={"vis_backends": backends})
    shown = replace(context, folder=tmp_path, name="cells", schedule=schedule)
    for number in (1, 2):
        evaluate(shown, Candidate(number, "logits", Distiller.parse("logits: softmax_c, kl × 5")))
    first, second = (tmp_path / f"cells.trials/{number} logits softmax_c kl" for number in (1, 2))
    for folder in (first, second):
        found = EventAccumulator(str(folder)).Reload()
        assert {"loss", "lr", "AP"} <= set(found.Tags()["scalars"])
        assert len(found.Scalars("AP")) == 1


def test_a_backend_that_cannot_be_built_on_a_worker_is_left_out(context, tmp_path, capfd):
    backends = [{"type": "Broken"}]
    schedule = context.schedule.model_copy(update={"vis_backends": backends})
    shown = replace(context, folder=tmp_path, schedule=schedule)
    outcome = evaluate(shown, Candidate(0, "whole", Distiller(())))
    assert outcome.status is Status.COMPLETED, outcome.error
    assert "Broken is left out of this trial: " in capfd.readouterr().out


def test_workers_get_the_whole_path_of_the_work_folder(monkeypatch, tmp_path):
    """A worker of a cluster that was started elsewhere has another current folder."""
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_engine, "run_actors", lambda *given, **more: made.append(given[3]))
    given = (None, None, None, None, Resources(cpus=1, gpus=0))
    ray_engine.run(*given, seed=0, folder=Path("runs"), name="cells")
    assert made[0].keywords["folder"] == tmp_path / "runs"
