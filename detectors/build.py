"""Detectors from stock configs: resolve, build, and say what of them must line up."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from ..configs import FOLDER
from ..space import WrongUse, nearest
from . import operators
from .cross_head import HeadLayers, head_layers
from .families import NO_HEAD, encodes, image_size, levels_read, unread
from .maps import feature_maps
from .paa import use_float64_in_paa
from .responses import Responses, responses_of

#: Side of the blank image on which a model's levels are read off, in pixels.
PROBE_SIZE = 256


def register() -> None:
    """Make mmdet's registries whole, on torchvision's operators where mmcv has none compiled.

    mmengine's own logger is told to warn only: it prints every initialised parameter otherwise.
    PAA's heads fit their mixture in float64 from now on (:func:`use_float64_in_paa`).
    """
    operators.install()
    if not MMLogger.check_instance_created("mmengine"):
        MMLogger.get_instance("mmengine", log_level="WARNING")
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    use_float64_in_paa()


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
    config = _whole_config(reference)
    for key, value in (options or {}).items():
        config.merge_from_dict({key: value})  # one by one: "a.b" and "a" are merged, too
    if "model" not in config:
        raise WrongUse(f"{reference}: the config has no `model`")
    return config.model


def custom_imports(reference: str | Mapping[str, Any]) -> list[str]:
    """The modules that a config imports to register what it names; reading it imports them."""
    found = _whole_config(reference).get("custom_imports") or {}
    names = found.get("imports", [])
    return [names] if isinstance(names, str) else list(names)


def _whole_config(reference: str | Mapping[str, Any]) -> Config:
    if isinstance(reference, Mapping):
        return Config({"model": dict(reference)})
    path = config_path(reference)
    try:
        with warnings.catch_warnings():  # mmengine finds mmdet:: bases by pkg_resources
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            return Config.fromfile(path)
    except (SyntaxError, OSError, KeyError, AttributeError, ImportError) as error:
        raise WrongUse(f"{reference}: can't read the config: {error}") from None


def build_detector(config: Mapping[str, Any], name: str = "model") -> Any:
    """Build an mmdet detector; raises :class:`WrongUse` naming ``name`` for a wrong config."""
    register()
    from mmdet.registry import MODELS

    try:
        return MODELS.build(ConfigDict(config))
    except (KeyError, TypeError, AssertionError, ValueError) as error:
        raise WrongUse(f"{name}: mmdet can't build this model: {error}") from None


def has_masks(config: Mapping[str, Any]) -> bool:
    """Whether a model's config has a mask head: then its data need outlines."""
    return bool((config.get("roi_head") or {}).get("mask_head"))


def without_pretrained(config: Mapping[str, Any]) -> ConfigDict:
    """The same model without weights to fetch: for a model whose own checkpoint follows."""
    stripped = ConfigDict(copy.deepcopy(dict(config)))
    _strip(stripped)
    return stripped


def _strip(part: Any) -> None:
    """Wherever it stands: a DetectoRS neck has a backbone of its own."""
    if isinstance(part, list | tuple):
        for inner in part:
            _strip(inner)
    elif isinstance(part, dict):
        init = part.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            part["init_cfg"] = None
        if part.get("pretrained"):
            part["pretrained"] = None
        for inner in part.values():
            _strip(inner)


@dataclass(frozen=True)
class Signature:
    """What of a detector must line up with another's.

    ``strides`` and ``channels`` per level of its maps; ``responses`` None where they are not read;
    ``layers`` of a dense head that another can continue; ``classes`` that it tells apart;
    ``encoded``: its maps are an encoder's; ``unread`` and ``unlayered``: why there are no responses
    and no layers, in words that follow the name.
    """

    name: str
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    responses: Responses | None
    layers: HeadLayers | None = None
    classes: int | None = None
    encoded: bool = False
    unread: str = NO_HEAD
    unlayered: str = NO_HEAD

    @property
    def features_only(self) -> Signature:
        """The same detector where it sees images of another size: its answers can't line up."""
        why = "sees images of another size"
        return replace(self, responses=None, layers=None, unread=why, unlayered=why)


@torch.no_grad()
def signature(model: Any, name: str) -> Signature:
    """Read a detector's signature off one forward of a blank image, its mode left as it was.

    Raises :class:`WrongUse` for a detector without a neck, and for a neck that gives other levels
    than the head reads.
    """
    if getattr(model, "neck", None) is None:
        raise WrongUse(f"{name}: {type(model).__name__} has no neck to read features from")
    parameter = next(model.parameters())
    side = image_size(model) or PROBE_SIZE
    blank = parameter.new_zeros(1, 3, side, side)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        maps = feature_maps(model, blank, [_blank_sample(side)])
    finally:
        for module, training in modes.items():
            module.training = training
    strides = tuple(side // level.shape[-1] for level in maps)
    read = levels_read(model)
    if read is not None and not _alike(strides, read):
        raise WrongUse(
            f"{name}: its neck gives levels of stride {list(strides)}, its head reads {list(read)}:"
            " set neck.num_outs and the head's strides alike"
        )
    layers = head_layers(model)
    return Signature(
        name,
        read or strides,
        tuple(level.shape[1] for level in maps),
        responses_of(model),
        None if isinstance(layers, str) else layers,
        num_classes(model),
        encodes(model),
        unread(model) or "",
        layers if isinstance(layers, str) else "",
    )


def _alike(strides: tuple[int, ...], read: tuple[int, ...]) -> bool:
    """Whether levels are those that are read: each within a factor of two, as padding has it."""
    pairs = zip(strides, read, strict=False)
    return len(strides) == len(read) and all(a < 2 * b and b < 2 * a for a, b in pairs)


def _blank_sample(side: int) -> Any:
    from mmdet.structures import DetDataSample

    shapes = ("img_shape", "batch_input_shape", "pad_shape", "ori_shape")
    return DetDataSample(metainfo=dict.fromkeys(shapes, (side, side)))


def num_classes(model: Any) -> int | None:
    """The classes of the head that classifies: the dense head's or the RoI head's."""
    head = getattr(model, "bbox_head", None)
    if head is None and getattr(model, "roi_head", None) is not None:
        head = model.roi_head.bbox_head
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return getattr(head, "num_classes", None)
