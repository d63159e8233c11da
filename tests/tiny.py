"""The quickstart, cut down to seconds: what the tests that run the real thing share."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from detkds.space import Distiller

if TYPE_CHECKING:
    import torch
    from detkds.space import Candidate
    from detkds.workers.trial import TrialContext

OPTIONS = (
    "data.synthetic.train=112",
    "data.synthetic.val=8",
    "data.synthetic.test=8",
    "data.synthetic.size=64",
    "data.image_size=(64,64)",
    "proxy.train_images=96",
    "proxy.val_images=16",
    "teacher.schedule.epochs=1",
    "trial.epochs=1",
    "final.epochs=1",
    "final.seeds=[0]",
    "final.pictures=0",
    "search.algorithm=algorithm1",
    "search.divide=True",
    "search.trials=None",
    "search.space=detkds",
    "search.start=[]",
    "confirm=None",
    "final.compare=['none','pkd','found']",
    "search.knowledge=['global','logits']",
    "search.population=2",
    "search.iterations=1",
    "search.weights=4",
    "resources.dashboard=False",
    "resources.workers=1",  # each imports torch and mmdet for ten seconds
)
#: A distiller of all kinds of DetKDS.
ALL_FIVE = Distiller.parse(
    """global: catt → scale_2 → norm_n, l1 × 5
    fgbg: local_4 → norm_hw, l1 × 1
    instance: mask → scale_1 → norm_c, smooth_l1 × 1
    logits: norm_n, pearson × 2
    localization: sigmoid, ciou × 0.5"""
)
#: 2 stages x (P + 2T) and the weights, if nothing is rejected.
TRIALS = 2 * (2 + 2 * 1) + 4


def command(*arguments: str | Path) -> list[str]:
    """The ``detkds`` command as it is installed beside this Python."""
    return [str(Path(sys.executable).parent / "detkds"), *map(str, arguments)]


def search_arguments(work_dir: Path, *more: str | Path, options: tuple[str, ...] = ()) -> list[str]:
    first = ("search", "quickstart", "--work-dir", work_dir, *more, "--cfg-options")
    return [*map(str, first), *OPTIONS, *options]


def search_command(work_dir: Path, *more: str | Path, options: tuple[str, ...] = ()) -> list[str]:
    return command(*search_arguments(work_dir, *more, options=options))


def run(arguments: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    # On some virtual machines torch warns, on standard error, that the processor lacks something.
    environment = {**os.environ, "COLUMNS": "200", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )


def run_here(arguments: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has imported torch and mmdet: a test takes half the time.

    Its workers are processes all the same.
    """
    from detkds.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", arguments)
        patch.setenv("COLUMNS", "200")
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def trial_context(folder: Path, *options: str) -> TrialContext:
    """The quickstart's pair, cut down; the teacher is as small as the student, trained an epoch."""
    from detkds.search.plans.plan import make_data, make_plan
    from detkds.settings import load_config
    from detkds.workers.training import train
    from detkds.workers.trial import TrialContext

    plan = make_plan(load_config("quickstart", [*OPTIONS, *options]), folder)
    make_data(plan)
    assert plan.teacher is not None
    outcome = train(plan.teacher)
    assert outcome.completed, outcome.error
    return TrialContext.build(plan.task, plan.config.trial, plan.proxy, seed=0)


def weights_after(context: TrialContext, candidate: Candidate | Distiller | None) -> torch.Tensor:
    """The student's weights at the end of a trial, which tell more than the score."""
    import torch
    from detkds.workers import trial

    kept: dict[str, Any] = {}
    original = trial.build_student

    def keep(*args: Any) -> Any:
        kept["student"] = original(*args)
        return kept["student"]

    trial.build_student = keep
    try:
        outcome = trial.evaluate(context, candidate)
        assert outcome.completed, outcome.error or outcome.reason
    finally:
        trial.build_student = original
    return torch.cat([p.detach().flatten() for p in kept["student"].parameters()])
