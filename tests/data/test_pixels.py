"""A split's hash changes with its images, and with nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from detkds.data import pixels, pixels_hash
from detkds.space import WrongUse

NAMES = [f"{number}.bmp" for number in range(8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of a format whose files keep their size whatever the pixels are."""
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for name in NAMES:
        image = generator.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / name), image)
    return tmp_path / "images"


def darken(file: Path) -> None:
    cv2.imwrite(str(file), cv2.imread(str(file)) // 8)


@pytest.mark.parametrize("name", NAMES)
def test_any_image_of_a_small_set_counts(folder: Path, name: str) -> None:
    before, size = pixels_hash(folder, NAMES), (folder / name).stat().st_size
    darken(folder / name)
    assert (folder / name).stat().st_size == size
    assert pixels_hash(folder, NAMES) != before


def test_a_copy_has_the_same_hash(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    os.utime(copy / NAMES[0], (1, 1))
    (copy / "another.bmp").write_bytes(b"of another split")
    assert pixels_hash(copy, NAMES[::-1]) == pixels_hash(folder, NAMES)


def test_a_large_set_is_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes count; the hash misses other pixels in files of the same size, as it says."""
    monkeypatch.setattr(pixels, "SAMPLE", 3)
    before = pixels_hash(folder, NAMES)
    noticed = 0
    for name in NAMES:
        content = (folder / name).read_bytes()
        darken(folder / name)
        noticed += pixels_hash(folder, NAMES) != before
        (folder / name).write_bytes(content + b"\0")
        assert pixels_hash(folder, NAMES) != before
        (folder / name).write_bytes(content)
    assert noticed == 3


def test_a_missing_image_is_named(folder: Path) -> None:
    with pytest.raises(WrongUse, match=r"absent\.bmp: can't read the image: No such file"):
        pixels_hash(folder, [*NAMES, "absent.bmp"])
