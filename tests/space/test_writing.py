"""Files are written whole or not at all; JSON files are read or refused in one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from detkds.space import WrongUse
from detkds.space.writing import find_json, read_json, replace_file, replacing


@pytest.mark.parametrize("one_writer", [False, True])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, one_writer: bool
) -> None:
    target = tmp_path / "file"
    replace_file(target, "old", one_writer=one_writer)

    def write_and_raise() -> None:
        with replacing(target, one_writer=one_writer) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_raise()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    replace_file(target, "new", one_writer=one_writer)
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_at_once_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with replacing(target) as first, replacing(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first", "the block that ends last has the last word"


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_on_the_disk_before_it_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    target = tmp_path / "file"
    happened: list[object] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(opened: int) -> None:
        fsync(opened)
        status = os.fstat(opened)
        happened.append((status.st_ino, status.st_size if status.st_ino != folder else None))

    def noted_replace(source: Path, destination: Path) -> None:
        happened.append((source.stat().st_ino, "replaces"))
        replace(source, destination)

    folder = tmp_path.stat().st_ino
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    replace_file(target, "new", durable=durable)
    file = target.stat().st_ino
    all_three = [(file, 3), (file, "replaces"), (folder, None)]
    assert happened == (all_three if durable else all_three[1:2])


def test_a_file_that_can_not_reach_the_disk_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    replace_file(target, "old")

    def full(opened: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_platform_that_opens_no_folder_replaces_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def windows(path: Path, *arguments: int, **options: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", windows)
    replace_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


KILLED = """
import os, signal, sys
from detkds.space.writing import replacing
with replacing(sys.argv[1], one_writer=True) as temporary:
    temporary.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_processes_leave_one_temporary_file_which_the_next_write_replaces(
    tmp_path: Path,
) -> None:
    target = tmp_path / "file"
    replace_file(target, "old", one_writer=True)
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, os.fspath(target)])
        assert killed.returncode == -signal.SIGKILL
        assert target.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2
    replace_file(target, "new", one_writer=True)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't read the list: No such file or directory; give a list"),
        (b"\xff\xfe", "can't read the list: it is not UTF-8 text; give a list"),
        (b'["a",\n"b', "not a whole JSON document (line 2, character 6 of 8: "),
        (b"[" * 100_000, "its JSON is nested too deep; give a list"),
    ],
)
def test_a_file_that_is_no_json_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "list.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WrongUse) as caught:
        read_json(file, "the list", "give a list")
    assert str(caught.value).startswith(f"{file}: {says}")
    assert str(caught.value).endswith("; give a list")
    assert "\n" not in str(caught.value)
    assert find_json(file) is None


def test_a_json_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    replace_file(file, '["ä", 1]\n')
    assert read_json(file, "the list", "give a list") == ["ä", 1] == find_json(file)
