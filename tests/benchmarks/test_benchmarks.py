"""Every benchmark runs at its smallest size and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import detkds
import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.benchmarks]

BENCHMARKS = Path(detkds.__file__).parent / "benchmarks"


def printed(name: str, *arguments: str | int | Path) -> str:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(output: str) -> dict[str, list[str]]:
    """The rows of the table that a benchmark prints, without its header, by their first cell."""
    lines = [line.strip("│").split("│") for line in output.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line] for line in lines]
    # A long first cell goes on in a line of its own.
    return {name: cells for name, *cells in rows if any(cells)}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell.replace(",", ""))]


def all_positive(cells: list[str]) -> bool:
    return all(numbers(cell) and min(numbers(cell)) > 0 for cell in cells)


def test_engine() -> None:
    rows = table(printed("engine", "--quick"))
    assert list(rows) == ["kept worker", "fresh actors", "fresh / kept"]
    assert all_positive(rows["fresh actors"])
    assert all_positive(rows["kept worker"][:1])


def test_filter(tmp_path: Path) -> None:
    rows = table(printed("filter", "--quick", "--work-dir", tmp_path))
    assert list(rows) == ["a candidate", "in the driver", "on the workers"]
    assert all_positive(rows["a candidate"])
    given = ("--filter-seconds", 10, "--trial-seconds", 40, "--rejected", 0)
    (driver,), (workers,) = table(printed("filter", *given)).values()
    assert numbers(driver)[0] == pytest.approx(50, abs=1), "the driver can feed four of eight"
    assert numbers(workers)[0] == pytest.approx(20, abs=1)


def test_loss() -> None:
    rows = table(printed("loss", "--quick", "--threads", 1))
    assert list(rows) == ["7"]
    assert all_positive(rows["7"])


def test_memory() -> None:
    output = printed("memory", "--trials", 24)
    (counts,) = (line for line in output.splitlines() if line.endswith("s a trial"))
    assert sum(int(number) for number in re.findall(r"(\d+) [a-z]", counts.split(";")[0])) == 24
    rows = table(output)
    assert list(rows) == ["20", "24"]
    assert all_positive(rows["20"] + rows["24"])
    assert numbers(rows["20"][1]) == [1]


def test_step() -> None:
    size = ("--images", 1, "--height", 128, "--width", 128)
    rows = table(printed("step", "--quick", "--threads", 1, *size))
    knowledge = {"global", "fgbg", "instance", "logits", "localization"}
    assert {name.split(":")[0] for name in rows} >= {*knowledge, "all five"}
    assert [name for name in rows if name.endswith("against pkd")]
    assert all(all_positive(cells[:3]) for cells in rows.values())


def test_teacher_order() -> None:
    output = printed("teacher_order", "--quick", "--threads", 1)
    (cells,) = table(output).values()
    assert all_positive([cells[0], cells[1], cells[3]])
    assert "MB for 4 times as many" in output


def test_early_stop(tmp_path: Path) -> None:
    output = printed("early_stop", "--quick", "--work-dir", tmp_path)
    rows = table(output)
    assert list(rows) == ["without", "with early stopping", "with / without"]
    (trials, none, *whole), (early, *_, seconds) = rows["without"], rows["with early stopping"]
    assert none == "0"
    assert int(early) == int(trials) >= 10
    assert all_positive([*whole, seconds])
    assert re.search(r"^with early stopping: .*, (the same|ANOTHER) best$", output, re.M)
    assert len(re.findall(r"^with(?:out)?: trial \d+, AP \d\.\d{4}, ", output, re.M)) == 2
    assert re.search(
        r"^the paper's search, 1 simulations .*: the same best in [01], ", output, re.M
    )
    again = printed("early_stop", "--quick", "--work-dir", tmp_path)
    assert table(again) == rows, "a stored search is not run again"


def check_scores(rows: dict[str, list[str]]) -> None:
    """Every row has the mean AP over one seed, in points, and the seed's."""
    for cells in rows.values():
        (mean,), (first,) = map(numbers, cells)
        assert mean == first <= 100


def test_distillers(tmp_path: Path) -> None:
    names = ("none", "pkd")
    rows = table(printed("distillers", "--quick", "--work-dir", tmp_path, "--distillers", *names))
    assert tuple(rows) == names
    check_scores(rows)


def test_progressive(tmp_path: Path) -> None:
    rows = table(printed("progressive", "--quick", "--work-dir", tmp_path))
    together, along = rows
    assert together == "under both at once"
    assert along.split(",")[0] == "progressively"
    check_scores(rows)


def test_full_size(tmp_path: Path) -> None:
    """Of one image: a response term in pieces holds less than the whole at once."""
    out = tmp_path / "table.md"
    terms = ("logits: norm_n, pearson", "localization: sigmoid, ciou")
    rows = table(printed("full_size", "--quick", "--terms", *terms, "--out", out))
    assert set(rows) >= set(terms)
    _, peak, _, whole, *_ = rows[terms[0]]
    assert numbers(peak)[0] < numbers(whole)[0]
    assert out.read_text().count("| logits: norm_n, pearson | 1 |") == 1


def test_without_a_gpu_the_table_of_the_gpu_is_skipped() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "is skipped" in printed("full_size", "--need-gpu")


def test_watching() -> None:
    rows = table(printed("watching", "--quick"))
    assert list(rows) == ["0", "1"]
    assert all(map(all_positive, rows.values()))
    assert numbers(rows["0"][2]) == [1.0], "the ratio of none to none"
