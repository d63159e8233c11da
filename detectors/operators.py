"""``mmcv.ops`` without a compiled mmcv: a stand-in for the module ``mmcv._ext``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_loader
from types import ModuleType
from typing import Any, NoReturn

import mmcv

from . import torch_operators, torchvision_operators

_EXTENSION = "mmcv._ext"


def install() -> bool:
    """Make ``import mmcv.ops`` work with mmcv-lite. Call it before the first such import.

    If there is no compiled ``mmcv._ext``, a stand-in built on torchvision takes its place. The
    stand-in provides non-maximum suppression, soft non-maximum suppression, RoIAlign (average),
    deformable convolution 1 and 2, multi-scale deformable attention and the sigmoid focal loss,
    with their gradients. Any other operator raises :class:`NotImplementedError` when it is called.

    Returns True if the stand-in is in use. A compiled extension stays as it is.
    """
    if _EXTENSION not in sys.modules and find_spec(_EXTENSION) is None:
        sys.modules[_EXTENSION] = _stand_in()
    return isinstance(sys.modules.get(_EXTENSION), _StandIn)


class _StandIn(ModuleType):
    """A module that has every name. A name that stands for no operator here raises when called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")

        def missing_operator(*args: Any, **options: Any) -> NoReturn:
            raise NotImplementedError(
                f"mmcv's operator '{name}' needs the compiled mmcv, which is not installed here: "
                "install it (`pip uninstall mmcv-lite`, then "
                f"`pip install mmcv=={mmcv.__version__}`)"
            )

        return missing_operator


class _StandInLoader(Loader):
    # Only if the extension's spec has a loader does mmengine consider mmcv.ops available.

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        for source in (torchvision_operators, torch_operators):
            for name in source.__all__:
                setattr(module, name, getattr(source, name))


def _stand_in() -> ModuleType:
    loader = _StandInLoader()
    spec = spec_from_loader(_EXTENSION, loader, origin=__name__)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
