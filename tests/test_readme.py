"""What the README says can be typed: commands, options, files and Python are there and right."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import detkds
import tiny
import typer.main
from detkds.cli.main import _spread_options, app
from detkds.configs import distiller_file
from detkds.detectors import model_config
from detkds.search import api
from detkds.settings import SearchConfig, load_config
from mmdet.registry import MODELS
from readme import README, ROOT, blocks, coded, commands, lines

#: Numbers that the table of commands leaves open.
NUMBERS = {"N": "8", "M": "4"}
#: The commands that need no search, no training and no teacher.
LIGHT = ("detkds space", "detkds show", "detkds papers")


def parsed(command: str) -> tuple[str, dict[str, Any]]:
    """The name of a ``detkds`` command, and its parameters as typer reads them."""
    words = [NUMBERS.get(word, word) for word in shlex.split(command, comments=True)[1:]]
    rest = _spread_options(words)
    context, one = None, typer.main.get_command(app)
    while hasattr(one, "commands"):
        context = one.make_context(rest[0], rest, parent=context)
        _, one, rest = one.resolve_command(context, rest)
    return one.name, one.make_context(one.name, rest, parent=context).params


def test_every_command_is_one() -> None:
    assert len(commands()) > 30
    wrong = []
    for command in commands():
        try:
            parsed(command)
        except Exception as error:  # click's, of which typer keeps a copy
            wrong.append(f"{command}: {error}")
    assert wrong == []


@cache
def named() -> list[tuple[str, dict[str, Any]]]:
    return [parsed(command) for command in commands()]


def test_every_config_and_distiller_loads() -> None:
    configs = {
        (given["config"], *(given["cfg_options"] or ()))
        for _, given in named()
        if given.get("config") not in (None, "CONFIG", "…")
    }
    assert len(configs) > 7
    for reference, *options in configs:
        config = load_config(reference, options)
        if str(config.student.config).startswith("mmdet::"):
            model_config(config.student.config, config.student.cfg_options)
    distillers = {given.get("distiller") for _, given in named()} - {None, "F", "F|none"}
    shipped = [one for one in distillers if not one.endswith(".json")]  # others are the user's
    assert len(shipped) > 2
    for one in shipped:
        distiller_file(one)


def test_every_setting_of_the_text_is_one() -> None:
    """Settings of one paragraph go together."""
    found, sections = 0, SearchConfig.model_fields
    for paragraph in README.split("\n\n"):
        options = [
            shlex.split(code)[0]
            for code in coded(paragraph)
            if re.match(r"[a-z_.]+=\S", code) and re.split(r"[.=]", code)[0] in sections
        ]
        found += len(options)
        load_config("custom", options)
    assert found > 15


def test_every_file_and_target_is_there() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    scripts = re.findall(r"\b(benchmarks/\w+\.py|constraints\.txt|\.ci/run)\b", README)
    assert [name for name in {*links, *scripts} if not (ROOT / name).exists()] == []
    modules = re.findall(r"python -m (detkds[\w.]+)", README)
    assert [name for name in modules if find_spec(name) is None] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    make = [code for code in [*coded(README), *lines()] if code.startswith("make ")]
    assert [code for code in make if code.split()[1] not in targets] == []


def test_the_light_commands_of_the_text_run(tmp_path: Path) -> None:
    found = [code for code in coded(README) if code.startswith(LIGHT)]
    light = [code for code in dict.fromkeys(found) if not re.search(r"[A-Z[]", code)]
    assert len(light) >= 3, light
    for code in light:
        done = tiny.run_here(shlex.split(code), tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_every_import_and_call_of_the_python_blocks_is_right() -> None:
    """No call runs here: the first one would search."""
    called = []
    for text in blocks("python"):
        tree = ast.parse(text)
        imports: list[ast.stmt] = [one for one in tree.body if isinstance(one, ast.Import)]
        exec(compile(ast.Module(imports, []), "README.md", "exec"), {})
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("detkds."):
                called.append(ast.unparse(node.func).removeprefix("detkds."))
                signature = inspect.signature(getattr(api, called[-1]))
                signature.bind(*node.args, **{str(key.arg): key for key in node.keywords})
    assert sorted(called) == sorted(detkds.__all__)


def test_the_model_of_ones_own_training_is_one() -> None:
    (text,) = [text for text in blocks("python") if "DistilledDetector" in text]
    names: dict[str, Any] = {}
    exec(text.replace("...", ""), names)
    inspect.signature(MODELS.get(names["model"].pop("type"))).bind(**names["model"])
