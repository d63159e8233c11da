"""The reference of a search config's keys: ``python -m detkds.settings.reference``.

Types and defaults are the models' own, and the texts are the comments above their fields.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, get_args, get_origin

from .base import Settings
from .load import at, read_sections
from .search import SearchConfig

#: The shipped configs whose values are shown; each builds on the one before.
SHIPPED = ("custom", "quickstart")
#: In place of the name that a config gives one of several sections.
NAMED = "NAME"
#: A longer value is read in its file.
LONGEST = 40
WORDS = {
    "integer": "int",
    "number": "float",
    "string": "str",
    "boolean": "bool",
    "object": "dict",
    "null": "None",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

BEGIN = f"""# Every key of a search config

Written by `make docs` from the comments in [`settings/`](../settings); change them there.

A search config is a Python file of these sections, which mmengine reads. The command line can set
each key, too: `--cfg-options trial.epochs=3`. An unknown key is refused. Beside the default stands
the value of [`custom`](../configs/search/custom.py), where it is another, and that of
[`quickstart`](../configs/search/quickstart.py), where it differs from `custom`'s, on which it
builds. With two mmdet configs (`--student`, `--teacher`), sections that are left out come from the
student's config, and `--dry-run` prints them. {NAMED} stands for a name of your own.
"""


class Key(NamedTuple):
    """A field of a model at a place of the config."""

    path: str
    kind: type[Settings]
    name: str
    #: The model of a section, or of each of several sections.
    inner: type[Settings] | None
    #: Where the section's keys stand; "" if they are as those of another section.
    below: str


def reference() -> str:
    """The whole page, Markdown: a table a section, a row a key."""
    loose, parts = [], []
    for section, group in groupby(keys(), lambda key: key.path.partition(".")[0]):
        first, *rest = group
        if first.inner is None:
            loose.append(first)
            continue
        text = _markdown(inspect.getdoc(first.inner) or "")
        parts.append(f"## `{section}`\n\n{text}\n\n{_table([first, *rest])}")
    return "\n".join([BEGIN, f"## Keys outside of the sections\n\n{_table(loose)}", *parts])


def keys(kind: type[Settings] = SearchConfig, path: str = "") -> Iterator[Key]:
    """Every key of a config, and after a section the keys in it.

    The keys of a section within another one are listed if a shipped config sets it.
    """
    for name, field in kind.model_fields.items():
        inner, below = _kind(field.annotation), ""
        if inner is not None and (not path or any(_shipped(path + name))):
            several = get_origin(field.annotation) is dict
            below = f"{path}{name}.{NAMED}" if several else path + name
        yield Key(path + name, kind, name, inner, below)
        if inner is not None and below:
            yield from keys(inner, f"{below}.")


@cache
def sentences(kind: type[Settings]) -> dict[str, str]:
    """What the comments above a model's fields say, inherited fields included."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, Settings):
            continue
        lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        (tree,) = ast.parse("\n".join(lines)).body
        assert isinstance(tree, ast.ClassDef)
        for field in tree.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[field.target.id] = _comment(lines[: field.lineno - 1])
    return found


def _comment(above: list[str]) -> str:
    """The text of the ``#:`` lines that end these lines."""
    text: list[str] = []
    while above and above[-1].strip().startswith("#:"):
        text.insert(0, above.pop().strip()[2:].strip())
    return " ".join(text)


def _table(listed: list[Key]) -> str:
    head = "| key | type | default | what it says |\n| --- | --- | --- | --- |"
    return "\n".join([head, *map(_row, listed)]) + "\n"


def _row(key: Key) -> str:
    schema = _schema(key.kind)["properties"][key.name]
    words = _words(schema)
    if key.inner is not None and not key.below:
        listed = next(one.below for one in keys() if one.inner is key.inner and one.below)
        words += f", as `{listed}`"
    values, before = [_default(key)], schema.get("default")
    for config, value in zip(SHIPPED, _shipped(key.path), strict=True):
        if key.inner is None and value is not None and json.dumps(value) != json.dumps(before):
            values.append(f"{config} {_value(value, config)}")
            before = value
    cells = f"`{key.path}`", words, "; ".join(values), _markdown(sentences(key.kind)[key.name])
    return f"| {' | '.join(cells)} |"


def _shipped(path: str) -> list[Any]:
    """The values of the shipped configs at a path, None where they have none."""
    return [at(_sections(config), path) for config in SHIPPED]


def _default(key: Key) -> str:
    field = key.kind.model_fields[key.name]
    if field.is_required():
        return "required"
    if isinstance(field.default, Settings):
        return "the keys' own"
    return f"`{_rounded(field.default)!r}`"


def _value(value: Any, config: str) -> str:
    text = f"{_rounded(value)!r}"
    return f"`{text}`" if len(text) <= LONGEST else f"[in the file](../configs/search/{config}.py)"


def _words(schema: dict[str, Any]) -> str:
    """The type in words, as a Python file has it."""
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_words(one) for one in schema[choice])
    if "$ref" in schema:
        return "section"
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    if schema["type"] == "array" and "prefixItems" in schema:
        return f"({', '.join(_words(one) for one in schema['prefixItems'])})"
    if schema["type"] == "array":
        filled = ", not empty" if schema.get("minItems") else ""
        return f"list of {_words(schema['items'])}{filled}"
    if "$ref" in str(schema.get("additionalProperties")):
        return "sections by name"
    bounds = [f"{sign} {schema[bound]}" for bound, sign in BOUNDS.items() if bound in schema]
    return " ".join([WORDS[schema["type"]], " and ".join(bounds)]).strip()


@cache
def _schema(kind: type[Settings]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    # A model that holds itself stands among the definitions alone.
    return schema if "properties" in schema else schema["$defs"][kind.__name__]


@cache
def _sections(config: str) -> dict[str, Any]:
    return read_sections(config)


def _kind(annotation: Any) -> type[Settings] | None:
    """The model in a field's type, such as that of ``dict[str, Teacher]`` or ``Split | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(_kind, get_args(annotation))), None)


def _rounded(value: Any) -> Any:
    """Floats with three digits: the page tells no one third from 0.3333333333333333."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    return tuple(map(_rounded, value)) if isinstance(value, tuple) else value


def _markdown(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
