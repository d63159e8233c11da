"""What runs a search: run, session and controller; ``detkds.search(config)`` runs one.

The modules are imported one by one: the controller and the algorithms need neither torch nor Ray.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import SearchResult


class _Callable(ModuleType):
    """This package, which can be called: ``detkds.search`` is the package and the function."""

    def __call__(self, *arguments: Any, **options: Any) -> SearchResult:
        from .api import search

        return search(*arguments, **options)

    def __reduce__(self) -> tuple:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Callable
