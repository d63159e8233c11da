"""The examples in the product's docstrings print what the docstrings say."""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import detkds


def modules_with_examples() -> Iterator[str]:
    """Modules without an example are not imported: some of them change what the process loads."""
    for found in pkgutil.walk_packages(detkds.__path__, "detkds."):
        spec = importlib.util.find_spec(found.name)
        if spec and spec.origin and ">>> " in Path(spec.origin).read_text("utf-8"):
            yield found.name


def test_examples_in_docstrings() -> None:
    modules = [importlib.import_module(name) for name in modules_with_examples()]
    results = {module.__name__: doctest.testmod(module) for module in modules}
    assert {name: found for name, found in results.items() if found.failed} == {}
    assert sum(found.attempted for found in results.values()) > 0
