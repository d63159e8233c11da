"""Detectors from stock configs: resolve, build, and say what of them must line up."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from ..configs import FOLDER
from ..space import WrongUse, nearest
from . import operators
from .families import dense_head

#: Side of the blank image on which a model's levels are read off, in pixels.
PROBE_SIZE = 256


def register() -> None:
    """Make mmdet's registries whole, on torchvision's operators where mmcv has none compiled.

    mmengine's own logger is told to warn only: it prints every initialised parameter otherwise.
    """
    operators.install()
    if not MMLogger.check_instance_created("mmengine"):
        MMLogger.get_instance("mmengine", log_level="WARNING")
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)


def config_path(reference: str) -> Path:
    """The file behind ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``, ``detkds::…`` or a path.

    Raises :class:`WrongUse` naming the nearest stock config of that folder.
    """
    owner, separator, name = reference.partition("::")
    if not separator:
        if not Path(reference).is_file():
            raise WrongUse(f"{reference}: no such config; give a path or mmdet::<folder>/<name>.py")
        return Path(reference)
    roots = {"mmdet": _mmdet_configs, "detkds": lambda: FOLDER / "detectors"}
    if owner not in roots:
        raise WrongUse(f"{reference}: unknown package '{owner}': {nearest(owner, roots)}")
    root = roots[owner]()
    path = root / name
    if not path.is_file():
        stock = [str(p.relative_to(root)) for p in path.parent.glob("*.py")]
        stock = stock or [p.name for p in root.iterdir() if p.is_dir()]
        raise WrongUse(f"{reference}: {owner} has no such config; {nearest(name, stock)}")
    return path


def _mmdet_configs() -> Path:
    import mmdet

    return Path(mmdet.__file__).parent / ".mim" / "configs"


def model_config(
    reference: str | Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> ConfigDict:
    """The ``model`` of a stock or own config, with ``a.b.c=value`` options merged into the config.

    Pre-trained backbone weights that the config names are kept; set ``model.backbone.init_cfg``
    to None to go without.
    """
    if isinstance(reference, Mapping):
        config = Config({"model": dict(reference)})
    else:
        path = config_path(reference)
        try:
            with warnings.catch_warnings():  # mmengine finds mmdet:: bases by pkg_resources
                warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
                config = Config.fromfile(path)
        except (SyntaxError, OSError, KeyError, AttributeError) as error:
            raise WrongUse(f"{reference}: can't read the config: {error}") from None
    if options:
        config.merge_from_dict(dict(options))
    if "model" not in config:
        raise WrongUse(f"{reference}: the config has no `model`")
    return config.model


def build_detector(config: Mapping[str, Any], name: str = "model") -> Any:
    """Build an mmdet detector; raises :class:`WrongUse` naming ``name`` for a wrong config."""
    register()
    from mmdet.registry import MODELS

    try:
        return MODELS.build(ConfigDict(config))
    except (KeyError, TypeError, AssertionError, ValueError) as error:
        raise WrongUse(f"{name}: mmdet can't build this model: {error}") from None


def without_pretrained(config: Mapping[str, Any]) -> ConfigDict:
    """The same model without weights to fetch: for a model whose own checkpoint follows."""
    stripped = ConfigDict(copy.deepcopy(dict(config)))
    for value in stripped.values():
        for part in value if isinstance(value, list) else [value]:
            init = part.get("init_cfg") if isinstance(part, dict) else None
            if isinstance(init, dict) and init.get("type") == "Pretrained":
                part["init_cfg"] = None
    return stripped


@dataclass(frozen=True)
class Signature:
    """What of a detector must line up with another's.

    ``strides`` and ``channels`` per level of the neck; ``num_classes`` of the head that classifies;
    ``priors`` per position and level, and None for a head whose responses are not read.
    """

    name: str
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    num_classes: int | None
    priors: tuple[int, ...] | None


@torch.no_grad()
def signature(model: Any, name: str) -> Signature:
    """Read a detector's signature off one forward of a blank image, its mode left as it was."""
    if getattr(model, "neck", None) is None:
        raise WrongUse(f"{name}: {type(model).__name__} has no neck to read features from")
    parameter = next(model.parameters())
    blank = parameter.new_zeros(1, 3, PROBE_SIZE, PROBE_SIZE)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        maps = model.extract_feat(blank)
    finally:
        for module, training in modes.items():
            module.training = training
    head = dense_head(model)
    return Signature(
        name=name,
        strides=tuple(PROBE_SIZE // level.shape[-1] for level in maps),
        channels=tuple(level.shape[1] for level in maps),
        num_classes=num_classes(model),
        priors=None if head is None else tuple(_priors(head, len(maps))),
    )


def _priors(head: Any, levels: int) -> list[int]:
    count = head.num_base_priors if hasattr(head, "num_base_priors") else 1
    return list(count) if isinstance(count, list | tuple) else [int(count)] * levels


def num_classes(model: Any) -> int | None:
    """The classes of the head that classifies: the dense head's or the RoI head's."""
    head = getattr(model, "bbox_head", None)
    if head is None and getattr(model, "roi_head", None) is not None:
        head = model.roi_head.bbox_head
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return getattr(head, "num_classes", None)
