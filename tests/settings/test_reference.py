"""The reference of a config's keys is what the settings are now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import detkds
from detkds.settings import SearchConfig, Settings
from detkds.settings.reference import keys, reference, sentences

PAGE = Path(detkds.__file__).parent / "docs" / "config.md"


def test_the_page_and_the_settings_agree() -> None:
    assert PAGE.read_text("utf-8") == reference(), "write the page again: make docs"


def subclasses(kind: type[Settings]) -> Iterator[type[Settings]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_key_of_every_section_is_listed_and_says_something() -> None:
    sections = {"SearchConfig", *SearchConfig.model_json_schema()["$defs"]}
    kinds = {kind for kind in subclasses(Settings) if kind.__name__ in sections}
    wanted = {(kind, name) for kind in kinds for name in kind.model_fields}
    assert {(key.kind, key.name) for key in keys()} == wanted
    assert [key.path for key in keys() if not sentences(key.kind)[key.name].endswith(".")] == []
