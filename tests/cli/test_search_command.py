"""``detkds search`` and the commands after it, as a user types them, on real detectors and Ray."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from detkds.db import Store
from detkds.detectors import build_detector, model_config
from detkds.space import Distiller, Status
from stored_search import Page
from terminal import Terminal, broken, frames

pytestmark = pytest.mark.slow

OPTIONS = ("search.start=['pkd', 'logits: norm_n, l2 × 5']",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A work folder in which a whole tiny search with one worker has run, in a terminal."""
    folder = tmp_path_factory.mktemp("search")
    looks = (*OPTIONS, "final.pictures=6")
    terminal = Terminal(tiny.search_command(folder, options=looks), columns=80)
    assert terminal.wait(900) == 0, "\n".join(terminal.screen)
    (folder / "output.txt").write_text(terminal.output, newline="")
    return folder


def trainings(folder: Path) -> set:
    with Store(f"sqlite:///{folder / 'detkds.db'}") as store:
        own = store.trainings(store.search("quickstart").id)
        return {(row.name, row.seed, row.status, row.score) for row in own}


def rows(folder: Path, name: str = "detkds.db") -> list:
    with Store(f"sqlite:///{folder / name}") as store:
        return store.trials(store.search("quickstart").id)


def told(folder: Path) -> list:
    return [row for row in rows(folder) if row.tell_order is not None]


def test_a_search_ends_with_the_table_and_the_paths(finished):
    with (finished / "output.txt").open(newline="") as file:
        shown = frames(file.read(), columns=80)
    printed = "".join(shown[-1])  # a long path goes on in the next line
    page = finished / "quickstart.html"
    assert "proxy AP" in page.read_text()
    texts = ("student alone", "pkd", "found", "AP50", str(finished / "quickstart.json"), str(page))
    for text in texts:
        assert text in printed
    assert [line for screen in shown for line in broken(screen)] == []
    assert shown[-1][0] == "loading torch and mmdet, checking the config …"
    assert "starting Ray …" in shown[-1]
    assert "\nrunning  0 start for " in (finished / "output.txt").read_text()
    assert not list(finished.glob(".running-*"))
    assert any("waiting" in line for screen in shown for line in screen), "trainings are shown"
    assert len(rows(finished)) >= tiny.TRIALS
    assert {row.stage for row in rows(finished)} == {"start", "global", "logits", "weights"}
    for row in rows(finished):
        assert row.status is not Status.FAILED, row.error
        assert row.status is Status.REJECTED or (
            0 <= row.score <= 1 and "bbox_mAP_50" in row.metrics
        )
        assert row.host or row.status is Status.REJECTED or row.reused_from


def test_the_populations_start_from_what_was_named(finished):
    named = ["global: identity, pearson × 5", "logits: norm_n, l2 × 5"]
    assert [str(row.distiller) for row in rows(finished)[:2]] == named
    stages = {row.stage: str(row.distiller) for row in reversed(rows(finished))}
    assert [stages["global"], stages["logits"]] == named


def test_a_report_that_cannot_be_written_hides_no_result(finished):
    page, aside = finished / "quickstart.html", finished / "aside.html"
    page.rename(aside)
    page.mkdir()
    try:
        done = tiny.run_here(tiny.search_command(finished, "--resume", options=OPTIONS))
    finally:
        page.rmdir()
        aside.rename(page)
    assert done.returncode == 0, done.stderr
    assert f"distiller: {finished / 'quickstart.json'}" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == f"no report: {page}: Is a directory"


def test_the_exported_distiller_is_the_best_trial_and_trains_on(finished):
    best = max((r for r in rows(finished) if r.score is not None), key=lambda r: r.score)
    file = finished / "again.json"
    done = tiny.run_here(
        tiny.command("export", "quickstart", "--work-dir", finished, "--out", file)
    )
    assert done.returncode == 0, done.stderr
    exported = Distiller.from_json(file)
    assert exported.key == best.distiller.key
    assert exported == Distiller.from_json(finished / "quickstart.json")
    assert exported.provenance["proxy"]["ap"] == best.score
    shown = tiny.run_here(tiny.command("show", file))
    assert str(exported) in shown.stdout


def test_the_report_shows_what_the_trained_detectors_find(finished, command):
    """Their APs over the test images are those of the trainings."""
    found = json.loads((finished / "quickstart.detections.json").read_text())
    with Store(f"sqlite:///{finished / 'detkds.db'}") as store:
        rows = store.trainings(store.search("quickstart").id)
    metrics = {row.name: row.metrics for row in rows if row.split == "test"}
    for role, name in (("alone", "none"), ("distilled", "found")):
        own, stored = found["detectors"][role], metrics[name]
        assert own["ap"] == pytest.approx(stored.get("bbox_mAP", 0.0), abs=6e-4)
        for end, iou in (("50", "0.5"), ("75", "0.75")):
            ap = sum(own["precision"][iou]) / 101
            assert ap == pytest.approx(stored.get(f"bbox_mAP_{end}", 0.0), abs=6e-4)
    assert found["looked_at"] == found["of"] == 8
    assert found["maps"]["pictures"][0].keys() == {"alone", "distilled"}
    file = finished / "page.html"
    code, said = command("report", "quickstart", "--work-dir", str(finished), "--out", str(file))
    assert code == 0, said
    page = Page(file.read_text("utf-8"))
    assert "in 8 test images: student alone, student distilled, teacher." in page.text["detections"]
    assert [tag for tag, _ in page.tags].count("image") == len(found["pictures"]) == 6


def test_every_checkpoint_is_a_stock_models_own(finished):
    checkpoints = list(finished.glob("trained/*/student.pth"))
    assert len(checkpoints) == 3
    for checkpoint in checkpoints:
        stock = build_detector(
            model_config("detkds::retinanet_r18_thin.py", {"model.bbox_head.num_classes": 4})
        )
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        stock.load_state_dict(state, strict=True)


def test_trials_lists_and_writes_all_columns(finished):
    listed = tiny.run_here(tiny.command("trials", "quickstart", "--work-dir", finished))
    assert listed.returncode == 0
    assert "weights" in listed.stdout
    file = finished / "trials.csv"
    tiny.run_here(tiny.command("trials", "quickstart", "--work-dir", finished, "--csv", file))
    assert file.read_text().count("\n") >= tiny.TRIALS + 1
    assert "metrics.bbox_mAP_75" in file.read_text().split("\n")[0]


def test_train_takes_the_exported_distiller_and_what_the_search_has_trained(finished, command):
    before = set(finished.glob("trained/*"))
    (found,) = finished.glob("trained/found-seed0-*")
    code, said = command(
        "train", "--distiller", str(finished / "quickstart.json"), "--work-dir", str(finished)
    )
    assert code == 0, said
    assert f"quickstart, seed 0: trained already, in {found}" in said
    assert f"quickstart: {found / 'student.pth'}" in said
    assert set(finished.glob("trained/*")) == before


def test_the_folder_says_what_ran_in_it_and_is_enough_to_go_on(finished, command):
    (teacher,) = finished.glob("teacher-*/*.pth")
    assert teacher.name == "teacher.pth"
    (start, *_) = json.loads((finished / "environment.json").read_text())
    assert (start["command"], start["name"]) == ("search", "quickstart")
    code, said = command("search", "--work-dir", str(finished))
    assert (code, "a search 'quickstart' is in" in said) == (2, True), said
    changed = ["--cfg-options", "trial.epochs=2"]
    code, said = command("search", "--work-dir", str(finished), "--resume", *changed)
    assert (code, "trial.epochs changed since it was started" in said) == (2, True), said
    code, said = command("trials", "quickstart", "--trainings", "--work-dir", str(finished))
    assert all(label in said for label in ("teacher-seed0", "found-seed0", "none-seed0"))


def test_the_same_name_is_not_searched_twice_by_accident(finished, command):
    code, printed = command(*tiny.search_arguments(finished))
    assert code == 2
    *planned, said = printed.splitlines()
    assert "resume it or give another name" in said
    assert all(line.startswith("planned ") for line in planned)


def test_a_resume_of_a_name_that_is_not_there_starts_nothing(finished, command):
    before = len(rows(finished))
    code, printed = command(*tiny.search_arguments(finished, "--name", "quikstart", "--resume"))
    assert code == 2
    assert printed.endswith("did you mean quickstart?\n"), printed
    assert len(rows(finished)) == before


def test_a_search_without_a_completed_trial_fails_in_one_line(finished):
    """A learning rate at which every loss is infinite."""
    options = (
        "trial.optim_wrapper.optimizer.lr=1e30", "trial.optim_wrapper.clip_grad=None",
        "search.knowledge=['logits']", "search.population=1", "search.iterations=0",
    )  # fmt: skip
    url = f"sqlite:///{finished / 'failing.db'}"
    failed = tiny.run_here(tiny.search_command(finished, "--storage", url, options=options))
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert failed.stderr.startswith("detkds: no trial completed: see `detkds trials`")
    assert {row.status for row in rows(finished, "failing.db")} == {Status.REJECTED}


def test_a_resume_under_other_conditions_is_refused(finished, command):
    changed = ("trial.epochs=2", "search.seed=3")
    code, printed = command(*tiny.search_arguments(finished, "--resume", options=changed))
    assert code == 2
    assert "trial.epochs" in printed
    assert "search.seed" in printed


#: When the search is ended, in turn, and by which signal. The first time is before Ray starts.
#: SIGINT is Ctrl-C, pressed in the terminal; SIGHUP goes to all processes, as when a terminal
#: closes. A teacher's training and a confirmation end as the final trainings do.
ENDS: list[tuple[Callable[[Path], object], signal.Signals]] = [
    (lambda folder: (folder / "detkds.db").is_file(), signal.SIGTERM),
    (lambda folder: _told_count(folder) >= 3, signal.SIGINT),
    (lambda folder: _told_count(folder) >= 6, signal.SIGKILL),
    (lambda folder: any(folder.glob("trained/*/progress.json")), signal.SIGHUP),
]


def _told_count(folder: Path) -> int:
    with suppress(Exception):  # not migrated yet
        return len(told(folder))
    return 0


def ended(
    command: list[str], reached: Callable[[], object], by: signal.Signals, columns: int
) -> Terminal:
    """Start a search in a terminal and end it midway; returns the terminal."""
    terminal = Terminal(command, columns)
    terminal.wait_for(lambda screen: reached())
    if by == signal.SIGINT:
        terminal.press("\x03")
    elif by == signal.SIGHUP:
        os.killpg(terminal.process.pid, by)
    else:
        terminal.process.send_signal(by)
    return terminal


def test_a_search_that_is_ended_in_every_phase_resumes_as_the_unbroken_one(finished, tmp_path):
    """To the last digit the same scores; each end but SIGKILL says in one line how to go on."""
    command = tiny.search_command(tmp_path, options=OPTIONS)
    known: dict[int, object] = {}
    for turn, (reached, by) in enumerate(ENDS):
        columns = 120 if by == signal.SIGKILL else 200
        terminal = ended(command, partial(reached, tmp_path), by, columns)
        code, screen = terminal.wait(), "\n".join(terminal.screen)
        *shown, last = frames(terminal.output, columns)
        shown += [last] if by != signal.SIGKILL else []  # which may come in the middle of a line
        assert [line for one in shown for line in broken(one)] == []
        if by == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 128 + by, screen
            _, *said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output).split(
                "interrupted; go on with: detkds search "
            )
            assert len(said) == 1, screen
            said = said[0].splitlines()  # a line of the terminal may end with a space
            assert shlex.split(said[0])[0] == "quickstart"
            assert shlex.split(said[0])[-1] in (OPTIONS[-1], "--resume"), "nothing follows"
            assert ("--resume" in said[0]) == (turn > 0), screen
            assert "Traceback" not in screen
            assert "***" not in screen
        if by in (signal.SIGINT, signal.SIGKILL):
            lines = terminal.screen
            assert [line for line in lines if f"/{tiny.TRIALS + 2} trials done, " in line]
            assert [line for line in lines if line.split()[:1] == ["global"]]
        if turn == 0:
            continue  # the search is not in the store yet
        if turn == 1:
            command.insert(3, "--resume")
        before = {row.number: row for row in told(tmp_path)}
        assert known.items() <= before.items(), "what was told stays"
        known = before
    done = tiny.run(command)
    assert done.returncode == 0, done.stderr
    after, whole = rows(tmp_path), rows(finished)
    assert known.items() <= {row.number: row for row in after}.items(), "no trial runs again"
    assert [(r.stage, r.key, r.status, r.score) for r in after] == [
        (r.stage, r.key, r.status, r.score) for r in whole
    ]
    assert trainings(tmp_path) == trainings(finished), "the same students"


def test_the_wheel_alone_runs_the_quickstart_elsewhere(tmp_path):
    """The wheel, unpacked into another folder, holds configs and migrations."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(Path(__file__).parents[2], source, ignore=ignored)
    wheel = [os.fspath(Path(tiny.sys.executable)), "-m", "pip", "wheel", "--no-deps", "--quiet"]
    built = tiny.run([*wheel, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)])
    assert built.returncode == 0, built.stderr
    elsewhere = tmp_path / "elsewhere"
    unpack = [tiny.sys.executable, "-m", "zipfile", "-e", str(next(tmp_path.glob("*.whl")))]
    assert tiny.run([*unpack, str(elsewhere)]).returncode == 0
    script = (
        "import detkds, sys; assert detkds.__file__.startswith(sys.argv.pop(1));"
        "from detkds.cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(elsewhere)}
    search = tiny.search_command(
        tmp_path / "run",
        options=(
            *("search.knowledge=['logits']", "search.population=1", "search.iterations=0"),
            "final=None",
        ),
    )[1:]
    done = subprocess.run(
        [tiny.sys.executable, "-c", script, str(elsewhere), *search],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "run" / "quickstart.json").read_text())
    assert document["schema"] == "detkds/distiller/1"
