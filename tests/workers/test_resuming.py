"""Full trainings that are killed and resumed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import gettempdir

import pytest
import tiny
import torch
from detkds.data import make_shapes
from detkds.detectors import build_detector, model_config
from detkds.search.plans.plan import Plan, make_plan
from detkds.settings import load_config
from detkds.space import Distiller, Status
from detkds.workers import resuming
from detkds.workers.training import Training, train

pytestmark = pytest.mark.slow

FORM = Distiller.parse(
    """global: catt → scale_2 → norm_n, l1 × 5
    localization: sigmoid, ciou × 0.5"""
)
EPOCHS, ITERATIONS = 2, 4  # an epoch


class Killed(BaseException):
    """Ends a training like a signal: no handler of exceptions catches this exception."""


def training(folder: Path, distilled: bool) -> Training:
    """Two epochs of four iterations, flips drawn at random, the learning rate on its way to 0.

    The teacher is asked for every batch: what it remembers of an image differs, in the last digits,
    by the images beside it, which are others after a resume.
    """
    plan = make_plan(load_config("quickstart", tiny.OPTIONS), folder)
    files = make_shapes(folder.parent / "shapes", train=32, val=1, test=4, size=64)
    split = {"annotations": str(files.train), "images": str(files.images)}
    schedule = plan.config.trial.schedule.model_dump()
    warmup, cosine = schedule["param_scheduler"]
    schedule["param_scheduler"] = [{**warmup, "end": 2}, {**cosine, "begin": 2}]
    return Training(
        name="found",
        model=plan.task.student,
        teachers=[plan.task.teacher.model_copy(update={"checkpoint": weights(plan, folder)})],
        distiller=FORM.to_dict() if distilled else None,
        schedule=schedule | {"epochs": EPOCHS},
        train=split,
        test={**split, "annotations": str(files.test)},
        data=plan.config.data.model_copy(update={"cache_megabytes": 0}),
        seed=0,
        folder=str(folder),
    )


def weights(plan: Plan, folder: Path) -> str:
    """The weights of an untrained teacher."""
    teacher = plan.task.teacher
    torch.manual_seed(0)
    model = build_detector(model_config(teacher.config, teacher.cfg_options))
    torch.save({"state_dict": model.state_dict()}, folder.parent / "teacher.pth")
    return str(folder.parent / "teacher.pth")


def state(done: Training) -> dict[str, torch.Tensor]:
    return torch.load(done.checkpoint, weights_only=True)["state_dict"]


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "distilled"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Training:
    unbroken = training(tmp_path_factory.mktemp("whole") / "run", request.param)
    outcome = train(unbroken)
    assert outcome.status is Status.COMPLETED, outcome.error
    return unbroken


def kill_before(patch: pytest.MonkeyPatch, iteration: int) -> None:
    run_iter = resuming.Loop.run_iter

    def killed(self: resuming.Loop, index: int, batch: object) -> None:
        if self.iter == iteration:
            raise Killed
        run_iter(self, index, batch)

    patch.setattr(resuming.Loop, "run_iter", killed)


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6, 7])
def test_a_killed_training_ends_where_an_unbroken_one_does(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Flips and the order of images included. The state is written every two iterations."""
    monkeypatch.setattr(resuming, "EVERY", 2)
    killed = whole.model_copy(update={"folder": str(tmp_path)})
    with monkeypatch.context() as patch:
        kill_before(patch, killed_at)
        with pytest.raises(Killed):
            train(killed)
    assert killed.finished() is None
    kept = tmp_path / resuming.RESUME
    if killed_at > 1:
        meta = torch.load(kept, weights_only=False)["meta"]
        expected = killed_at - killed_at % 2
        assert (meta["iter"], meta["epoch"]) == (expected, expected // ITERATIONS)
    torch.manual_seed(12345)
    assert train(killed).status is Status.COMPLETED
    assert not kept.exists()
    assert killed.finished().metrics == whole.finished().metrics
    torch.testing.assert_close(state(killed), state(whole), rtol=0, atol=0)


def test_one_killed_while_it_was_scored_is_scored(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = whole.model_copy(update={"folder": str(tmp_path)})

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("detkds.workers.runner.score", kill)
        with pytest.raises(Killed):
            train(killed)
    assert train(killed).metrics == whole.finished().metrics


def test_a_kill_while_the_file_is_written_leaves_the_one_before(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = whole.model_copy(update={"folder": str(tmp_path)})
    replaced = []

    def replace_once(source: Path, target: Path) -> None:
        if target.name == resuming.RESUME:
            if replaced:
                source.write_bytes(b"half a file")
                raise Killed
            replaced.append(target)
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("detkds.space.writing.os.replace", replace_once)
        with pytest.raises(Killed):
            train(killed)
    assert train(killed).metrics == whole.finished().metrics


def copied(whole: Training, folder: Path) -> Training:
    """A finished training in another folder."""
    shutil.copytree(whole.folder, folder, dirs_exist_ok=True)
    return whole.model_copy(update={"folder": str(folder)})


def check_end(again: Training, whole: Training) -> None:
    """A training ends with the student and the metrics of an unbroken one, and leaves no more."""
    assert again.finished().metrics == whole.finished().metrics
    torch.testing.assert_close(state(again), state(whole), rtol=0, atol=0)
    kept = {".pth", ".damaged"}
    assert {p.name for p in Path(again.folder).iterdir() if p.suffix in kept} == {"student.pth"}


#: One kind of training is enough for a test of files.
alone = pytest.mark.parametrize("whole", [False], ids=["alone"], indirect=True)


@alone
@pytest.mark.parametrize("before", ["outcome.json", "the state is deleted"])
def test_one_killed_after_its_student_was_written_is_only_scored(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    killed = whole.model_copy(update={"folder": str(tmp_path)})
    replace, unlink = os.replace, Path.unlink

    def kill_before_replace(source: Path, target: Path) -> None:
        if Path(target).name == before:
            raise Killed
        replace(source, target)

    def kill_before_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == resuming.RESUME and before == "the state is deleted":
            raise Killed
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill_before_replace)
        patch.setattr(Path, "unlink", kill_before_unlink)
        with pytest.raises(Killed):
            train(killed)
    assert killed.checkpoint.is_file()
    assert killed.finished() is None
    kill_before(monkeypatch, 0)  # an iteration would raise
    assert train(killed).reason is None
    check_end(killed, whole)


@alone
@pytest.mark.parametrize(
    "content",
    ["", '{"status": "comp', "[]", '{"status": "completed", "score": NaN}'],
    ids=["empty", "half", "list", "NaN"],
)
def test_one_whose_outcome_is_not_whole_is_only_scored(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    again = copied(whole, tmp_path)
    (tmp_path / "outcome.json").write_text(content)
    assert again.finished() is None
    kill_before(monkeypatch, 0)
    outcome = train(again)
    assert outcome.status is Status.COMPLETED, outcome.error
    check_end(again, whole)


@alone
@pytest.mark.parametrize(
    ("name", "share"), [(resuming.RESUME, 0), (resuming.RESUME, 0.5), ("student.pth", 0.5)]
)
def test_one_whose_state_or_student_is_damaged_is_trained_again_and_says_so(
    whole: Training, tmp_path: Path, name: str, share: float
) -> None:
    again = whole.model_copy(update={"folder": str(tmp_path)})
    content = whole.checkpoint.read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    outcome = train(again)
    assert outcome.status is Status.COMPLETED, outcome.error
    assert outcome.reason == again.finished().reason
    assert outcome.reason == f"trained again, because of a damaged {name}"
    check_end(again, whole)


@alone
def test_a_state_that_the_disk_does_not_give_is_kept(whole: Training, tmp_path: Path) -> None:
    again = whole.model_copy(update={"folder": str(tmp_path)})
    kept = tmp_path / resuming.RESUME
    kept.symlink_to("/proc/self/mem")  # it opens, and reading it is an input/output error
    outcome = train(again)
    assert outcome.status is Status.FAILED
    assert "Input/output error" in outcome.error
    assert kept.is_symlink()


def test_a_finished_training_is_not_repeated(whole: Training) -> None:
    stamp = whole.checkpoint.stat().st_mtime_ns
    assert train(whole) == whole.finished()
    assert whole.checkpoint.stat().st_mtime_ns == stamp
    left = {path.name for path in Path(whole.folder).iterdir() if path.suffix == ".pth"}
    assert left == {"student.pth"}


def test_images_may_be_decoded_by_other_processes(tmp_path: Path) -> None:
    """The images and their order are the same; other processes draw the flips."""
    plain = training(tmp_path / "run", distilled=False)
    plain = plain.model_copy(update={"data": plain.data.model_copy(update={"flip": 0.0})})
    data = plain.data.model_copy(update={"num_workers": 2})
    beside = plain.model_copy(update={"data": data, "folder": str(tmp_path / "beside")})
    outcomes = [train(plain), train(beside)]
    assert [outcome.status for outcome in outcomes] == [Status.COMPLETED] * 2, outcomes
    assert outcomes[0].metrics == outcomes[1].metrics
    weights_beside = state(beside)
    assert all(torch.equal(value, weights_beside[name]) for name, value in state(plain).items())


def test_a_lock_that_may_not_be_opened_fails_the_training(tmp_path):
    """Not: two processes train in one folder. root may open everything, so it is another user."""
    own = training(tmp_path / "distilled", distilled=False)
    Path(own.folder).mkdir(parents=True)
    lock = Path(own.folder) / "training.lock"
    lock.touch()
    lock.chmod(0o000)
    user = os.geteuid()
    if user == 0:
        for folder in lock.parents:
            if Path(gettempdir()) in folder.parents:
                folder.chmod(0o755)
        os.seteuid(65534)
    try:
        outcome = train(own)
    finally:
        os.seteuid(user)
    assert outcome.status is Status.FAILED
    assert "PermissionError" in outcome.error.splitlines()[-1]
    assert str(lock) in outcome.error.splitlines()[-1]
