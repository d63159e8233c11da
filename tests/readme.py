"""The README as its reader has it: blocks, code between backticks, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import detkds

ROOT = Path(detkds.__file__).parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def lines() -> list[str]:
    """The lines of the blocks without a language, those that go on joined."""
    return "".join(blocks("")).replace("\\\n", " ").splitlines()


def coded(text: str) -> list[str]:
    """What stands between backticks, outside of blocks."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", plain)]


def commands(together: bool = True) -> list[str]:
    """The ``detkds`` commands of blocks, and those of the table, with what stands in brackets.

    ``together``: a command of the table has every option that its row names; otherwise it stands
    there as it is, and once with each of the options.
    """
    found = [" ".join(line.split("#")[0].split()) for line in lines() if line[:7] == "detkds "]
    for row in (coded(line) for line in README.splitlines() if line.startswith("| `detkds ")):
        *heads, last = [re.sub(r"[][]", "", code) for code in row if code.startswith("detkds ")]
        options = [code for code in row if code.startswith("--")]
        whole = [" ".join([last, *options])]
        found += [*heads, *(whole if together else _each(last, options))]
    return list(dict.fromkeys(found))


def _each(command: str, options: list[str]) -> Iterator[str]:
    yield command
    yield from (f"{command.partition(' [--')[0]} {option}" for option in options)
