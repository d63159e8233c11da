"""Teacher orders: MTPD's Table 8 from its Table 6, through the command line, and the rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from detkds.search.teachers.order import Pool, TeacherOrder, read_pool, teacher_order
from detkds.space import WrongUse
from typer.testing import CliRunner

#: Table 6, from row to column, and the teachers' box AP of Table 1.
COSTS = {
    "S": {"I": 0.939, "II": 0.060, "III": 1.568, "IV": 1.254},
    "I": {"S": 0.183, "II": 0.070, "III": 0.934, "IV": 0.963},
    "II": {"S": 0.339, "I": 1.181, "III": 1.940, "IV": 1.401},
    "III": {"S": 0.191, "I": 0.484, "II": 0.082, "IV": 0.890},
    "IV": {"S": 0.232, "I": 0.767, "II": 0.077, "III": 1.248},
}
SCORES = {"I": 38.2, "II": 38.7, "III": 42.3, "IV": 49.1}
#: Table 8, for k = 1 to 4.
TABLE_8 = {
    "bgs": ["IV", "III IV", "I III IV", "I III IV"],
    "shortest-sum": ["IV", "II IV", "II I IV", "II I III IV"],
    "shortest-max": ["IV", "I IV", "I III IV", "II I III IV"],
    "forward": ["II", "II I", "II I III", "II I III IV"],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"costs": COSTS, "scores": SCORES}))
    return path


def run(*arguments: object) -> str:
    from detkds.cli.main import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("algorithm", TABLE_8)
@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_orders_of_table_8(file: Path, algorithm: str, most: int) -> None:
    options = ("--max-teachers", most, "--algorithm", algorithm, "--json")
    printed = json.loads(run("teachers", "--costs", file, "--student", "S", *options))
    assert printed["order"] == TABLE_8[algorithm][most - 1].split()


@pytest.mark.slow
def test_the_installed_command_prints_the_table_and_why_it_stops(file: Path) -> None:
    done = tiny.run_here(tiny.command("teachers", "--costs", file, "--student", "S"))
    assert done.returncode == 0, done.stderr
    assert "I → III → IV" in done.stdout
    assert "0.939" in done.stdout
    assert "no teacher left is closer to I than S is (0.939)" in done.stdout


def test_ties_go_to_the_score_then_to_the_name() -> None:
    same = {a: {b: 1.0 for b in "abc" if b != a} for a in "sabc"}
    pool = Pool("s", {"b": 40.0, "c": 41.0, "a": 40.0}, same)
    assert teacher_order(pool, "forward").teachers == ("c", "a", "b")
    assert teacher_order(pool, "shortest-sum", 2).teachers == ("a", "c")
    assert pool.final == "c"
    equal = Pool("s", {"b": 40.0, "a": 40.0}, same)
    assert equal.final == "a"


def test_backward_greedy_asks_to_be_closer_not_as_close() -> None:
    costs = {"s": {"a": 1.0, "b": 0.5}, "a": {"b": 0.5}, "b": {"a": 2.0}}
    order = teacher_order(Pool("s", {"a": 30.0, "b": 40.0}, costs))
    assert order == TeacherOrder(("b",), "no teacher left is closer to b than s is (0.5)")


def changed(**changes: object) -> dict:
    document: dict = json.loads(json.dumps({"costs": COSTS, "scores": SCORES}))
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = document
        for part in parts:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return document


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": {"IV": 49.1}, "costs": {"S": {"IV": 1.0}, "IV": {}}}, "at least 2"),
        ({"scores__S": 36.5}, "'S' is the student"),
        ({"scores__II": None}, "teacher 'II' has no score"),
        ({"costs__I__III": None}, "from 'I' to 'III' is missing"),
        ({"costs__I": None}, "none from 'I'"),
        ({"costs__S__II": -0.1}, "from 'S' to 'II' it is -0.1"),
        ({"costs__S__II": float("nan")}, "from 'S' to 'II' it is nan"),
        ({"costs__S__II": "much"}, "from 'S' to 'II' it is 'much'"),
        ({"scores__II": float("inf")}, "II has inf"),
        ({"costs": [1]}, "{from: {to: cost}}"),
        ({"costs__I": 3}, "the costs from 'I' are not"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, changes: dict, says: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(changed(**changes)))
    with pytest.raises(WrongUse) as caught:
        read_pool(path, "S")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--costs", "nowhere.json", "--student", "S"), "nowhere.json: can't read the costs"),
        (("--costs", "{file}"), "--student: say which"),
        (("--costs", "{file}", "--student", "V"), "student: no costs from 'V'"),
        (("--costs", "{file}", "--student", "S", "--algorithm", "bsg"), "did you mean bgs"),
        (
            ("--costs", "{file}", "--student", "S", "--max-teachers", "0"),
            "an order has at least 1 teacher, not 0",
        ),
        ((), "either a config or --costs"),
        (("custom",), "data/train.json"),
        (
            ("quickstart", "--cfg-options", "teachers.student.config=x"),
            "teachers.student: the stud",
        ),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(
    file: Path, tmp_path: Path, arguments: tuple, says: str
) -> None:
    command = [argument.format(file=file) for argument in arguments]
    (tmp_path / "empty").mkdir()
    done = tiny.run_here(tiny.command("teachers", *command), cwd=tmp_path / "empty")
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "empty").iterdir())
