"""The code that a config brings along: the modules that it names, and what they import."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ..settings import Model
from .build import configured, custom_imports

#: Packages that a package manager installs lie in folders of these names.
_INSTALLED = {"site-packages", "dist-packages"}
#: Packages that count as installed wherever they lie.
_KNOWN = {"detkds", "mmcv", "mmdet", "mmengine", *sys.stdlib_module_names}


def user_code(model: Model) -> dict[str, str]:
    """The code of a model by module: a hash of the source file, or the version (major.minor).

    The modules are those of ``imports``, those of the config's ``custom_imports`` and those that
    its classes are of (``type="my_heads.MyHead"``, which configs that import classes come to).
    What these modules import is followed as far as it is the user's own. Of a package that is
    installed and has a version, the version stands for the code. Modules that code imports by a
    computed name are missed, and files that code reads.
    """
    imports = {*model.imports, *custom_imports(model.config)}
    return _code({*imports, *_modules(configured(model).to_dict())})


def named_code(config: Any) -> dict[str, str]:
    """The code of the classes that a config names by their whole path: see :func:`user_code`."""
    return _code(set(_modules(config)))


def _code(named: set[str]) -> dict[str, str]:
    """The code of modules, and of what they import, by module."""
    left = sorted(named)
    found: dict[str, str] = {}
    while left:
        name = left.pop()
        package = name.partition(".")[0]
        if name in found or (_is_installed(package) and name not in named):
            continue
        version = getattr(sys.modules.get(package), "__version__", None)
        if version and _is_installed(package):
            found[name] = ".".join(str(version).split(".")[:2])
            continue
        spec = _spec(name)
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            source = Path(spec.origin).read_bytes()
            found[name] = hashlib.sha256(source).hexdigest()[:16]
            left += [name.rpartition(".")[0] or name, *_imported(spec, source)]
    return found


def _modules(config: Any) -> Iterator[str]:
    """The modules of all classes that a config names by their whole path."""
    if isinstance(config, dict):
        name = config.get("type")
        if isinstance(name, str) and "." in name:
            yield name.rpartition(".")[0]
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _modules(value)


def _is_installed(package: str) -> bool:
    """Whether a package is Python's, mmdet's, detkds's or installed, and not the user's own."""
    spec = _spec(package)
    if package in _KNOWN or spec is None:
        return True
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return any(_INSTALLED & set(Path(place).parts) for place in places)


def _spec(name: str) -> ModuleSpec | None:
    with suppress(Exception):  # finding a module of a package imports the package
        return importlib.util.find_spec(name)
    return None


def _imported(spec: ModuleSpec, source: bytes) -> Iterable[str]:
    """The names that a module's source imports, each of which may be a module or not."""
    if not str(spec.origin).endswith(".py"):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            with suppress(ImportError):
                module = importlib.util.resolve_name(dots + (node.module or ""), spec.parent)
                yield from (module, *(f"{module}.{alias.name}" for alias in node.names))
