"""200 malformed files of each kind that is not trusted; ``benchmarks/fuzz.py`` reads 10,000."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import fuzz
import pytest
import torch
from detkds.space import Distiller

FILES = 200


@pytest.mark.parametrize(
    "name",
    ["distiller", "annotation", "checkpoint", pytest.param("database", marks=pytest.mark.slow)],
)
def test_malformed_files_are_read_rightly_or_refused_in_a_line(name, tmp_path):
    (kind,) = (kind for kind in fuzz.kinds(tmp_path) if kind.name == name)
    counts = fuzz.fuzz(kind, FILES, 1, tmp_path)
    assert counts.total() == FILES
    assert counts["refused"] > FILES / 4


def test_the_fuzz_sees_code_that_is_run_and_tracebacks(tmp_path):
    kind = fuzz.checkpoint_kind(tmp_path / "canary")

    def trusting(path: Path) -> None:
        with suppress(Exception):
            torch.load(path, weights_only=False)

    kind.read = trusting
    with pytest.raises(AssertionError, match="code was run"):
        fuzz.fuzz(kind, FILES, 1, tmp_path)
    (tmp_path / "canary").rmdir()
    kind = fuzz.distiller_kind()
    kind.read = lambda path: Distiller.from_dict(json.loads(path.read_text()))
    with pytest.raises(AssertionError, match="JSONDecodeError"):
        fuzz.fuzz(kind, FILES, 1, tmp_path)
