"""Detectors from configs: find the config, build the detector, read the detector's signature."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from ..configs import FOLDER
from ..settings import Model
from ..settings.load import read_config
from ..space import WrongUse, nearest
from . import operators
from .checkpoints import load_safely_from_now_on
from .cross_head import HeadLayers, head_layers
from .families import NO_HEAD, Unreadable, fixed_image_size, has_encoder_maps, head_strides
from .maps import feature_maps
from .paa import use_float64_in_paa
from .responses import Responses, responses_of

#: Side in pixels of the blank image whose maps show a detector's strides and channels.
PROBE_SIZE = 256

T = TypeVar("T")


def register() -> None:
    """Register all of mmdet's models, data sets and metrics in mmengine's registries.

    Operators that mmcv has not compiled come from torchvision. mmengine's logger prints warnings
    only: at its own level it prints every parameter that is initialised.
    PAA's heads fit their mixture in float64 (:func:`use_float64_in_paa`). What configs name as
    pre-trained weights is loaded without running code in it.
    """
    operators.install()
    load_safely_from_now_on()
    if not MMLogger.check_instance_created("mmengine"):
        MMLogger.get_instance("mmengine", log_level="WARNING")
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    use_float64_in_paa()


def config_path(reference: str) -> Path:
    """The file of a config.

    ``reference``: a path, ``mmdet::<folder>/<name>.py`` for one of mmdet's configs, or
    ``detkds::<name>.py`` for one of ours. Raises :class:`WrongUse`, with the nearest name in the
    folder, if there is no such file.
    """
    owner, separator, name = reference.partition("::")
    if not separator:
        path = Path(reference).expanduser()
        if not path.is_file():
            raise WrongUse(f"{reference}: no such config; give a path or mmdet::<folder>/<name>.py")
        return path
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
    """The ``model`` of a config, after ``options`` are merged into the config.

    ``reference``: as for :func:`config_path`, or the model itself as a dictionary. ``options``:
    values by path (``model.bbox_head.num_classes``). The model keeps the pre-trained weights that
    the config names; the option ``model.backbone.init_cfg`` = None leaves the backbone's out.
    Raises :class:`WrongUse` for a config that is missing, can't be read or has no ``model``.
    """
    return whole_config(reference, options).model


def whole_config(
    reference: str | Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Config:
    """The whole of a config that has a ``model``, as :func:`model_config` reads it."""
    config = _whole_config(reference)
    for key, value in (options or {}).items():
        try:  # one at a time: keys "a" and "a.b" may both be there
            config.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError, AssertionError, ValueError) as error:
            raise _unmergeable(config, key, value, error) from None
    if "model" not in config:
        raise WrongUse(f"{reference}: the config has no `model`; give a config of a detector")
    return config


def _unmergeable(config: Any, key: str, value: Any, error: Exception) -> WrongUse:
    """Why an option can't be merged into a config; a list of parts is the usual reason."""
    path: list[str] = []
    names = key.split(".")
    while names or (isinstance(value, Mapping) and value):
        if not names:
            name, value = next(iter(value.items()))
            names = str(name).split(".")
        if isinstance(config, list) and not names[0].isdigit():
            rest = ".".join(names)
            where = ".".join(path)
            return WrongUse(
                f"{where} is a list of {len(config)}: say which of them, as in {where}.0.{rest}, "
                "each by an option of its own",
                "cfg_options",
            )
        name = names.pop(0)
        path.append(name)
        try:
            config = config[int(name)] if isinstance(config, list) else config[name]
        except (KeyError, IndexError, TypeError):
            break
    reason = " ".join(str(error).split())
    return WrongUse(f"{'.'.join(path)}: can't be merged into the config: {reason}", "cfg_options")


def class_options(config: Mapping[str, Any]) -> list[str]:
    """The options that say how many classes the heads of a model's config have.

    >>> class_options({"roi_head": {"bbox_head": [{"num_classes": 80}, {"num_classes": 80}]}})
    ['model.roi_head.bbox_head.0.num_classes', 'model.roi_head.bbox_head.1.num_classes']
    """

    def walk(part: Any, path: str) -> Iterator[str]:
        items = part.items() if isinstance(part, Mapping) else enumerate(part)
        for name, inner in items:
            if name == "num_classes" and "head" in path:
                yield f"{path}.num_classes"
            elif isinstance(inner, Mapping | list | tuple):
                yield from walk(inner, f"{path}.{name}")

    return list(walk(config, "model"))


def configured(model: Model) -> ConfigDict:
    """The ``model`` of a settings section's config, with the section's options merged in."""
    return model_config(model.config, model.cfg_options)


def custom_imports(reference: str | Mapping[str, Any]) -> list[str]:
    """The modules in a config's ``custom_imports``. Reading the config imports these modules."""
    found = _whole_config(reference).get("custom_imports") or {}
    names = found.get("imports", [])
    return [names] if isinstance(names, str) else list(names)


def _whole_config(reference: str | Mapping[str, Any]) -> Config:
    if isinstance(reference, Mapping):
        return Config({"model": dict(reference)})
    path = config_path(reference)
    return copy.deepcopy(_shipped(path)) if "::" in reference else _read(path)


@cache
def _shipped(path: Path) -> Config:
    """A config of mmdet or detkds, read once: the file does not change while a process runs."""
    return _read(path)


def _read(path: Path) -> Config:
    with warnings.catch_warnings():  # mmengine looks up mmdet:: bases with pkg_resources
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        return read_config(path)


def build_detector(config: Mapping[str, Any], name: str = "model") -> Any:
    """Build an mmdet detector from the ``model`` of a config.

    Raises :class:`WrongUse` that names the detector by ``name`` if mmdet can't build it.
    """
    register()
    from mmdet.registry import MODELS

    try:
        return MODELS.build(ConfigDict(config))
    except (KeyError, TypeError, AssertionError, ValueError) as error:
        raise WrongUse(
            f"{name}: mmdet can't build the model: {error}; correct the model's config or options"
        ) from None


def has_masks(config: Mapping[str, Any]) -> bool:
    """Whether a model's config has a mask head, which trains on the objects' outlines."""
    return bool((config.get("roi_head") or {}).get("mask_head"))


def without_pretrained(config: Mapping[str, Any]) -> ConfigDict:
    """A copy of a model's config that names no pre-trained weights, so that none are downloaded.

    For a model whose weights come from a checkpoint of the whole model.
    """
    stripped = ConfigDict(copy.deepcopy(dict(config)))
    _strip(stripped)
    return stripped


def _strip(part: Any) -> None:
    """Remove pre-trained weights at every depth: DetectoRS's neck contains a second backbone."""
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
    """The properties of a detector that decide which knowledge it can share with another."""

    #: How messages name the detector: ``student``, ``teacher``.
    name: str
    #: Stride of each level of the detector's maps, in pixels of the input.
    strides: tuple[int, ...]
    #: Channels of each level of the detector's maps.
    channels: tuple[int, ...]
    #: The form of the detector's responses; None if ``unread`` says why there are none.
    responses: Responses | None
    #: The layers of the head, for CrossKD; None if ``unlayered`` says why there are none.
    layers: HeadLayers | None = None
    #: The number of classes; None for a detector without a head that classifies.
    classes: int | None = None
    #: The detector's maps are the memory of its encoder, not the neck's maps.
    encoded: bool = False
    #: Why ``responses`` is None: a predicate whose subject is the name. Unused with responses.
    unread: str = NO_HEAD
    #: Why ``layers`` is None: a predicate whose subject is the name. Unused with layers.
    unlayered: str = NO_HEAD

    @property
    def features_only(self) -> Signature:
        """The signature of a detector that sees the images at another size than its partner.

        Responses at two sizes have different positions, so the pair can share features only.
        """
        reason = "sees images of another size"
        return replace(self, responses=None, layers=None, unread=reason, unlayered=reason)


@torch.no_grad()
def signature(model: Any, name: str) -> Signature:
    """Read a detector's signature from one forward of a blank image.

    The detector's modules keep their training or evaluation mode. Raises :class:`WrongUse` for a
    detector without a neck, and for a neck whose levels are not the levels that the head reads.
    """
    if getattr(model, "neck", None) is None:
        raise WrongUse(
            f"{name}: {type(model).__name__} has no neck to read features from; "
            "give a detector with a neck"
        )
    parameter = next(model.parameters())
    side = fixed_image_size(model) or PROBE_SIZE
    blank = parameter.new_zeros(1, 3, side, side)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        maps = feature_maps(model, blank, [_blank_sample(side)])
    finally:
        for module, training in modes.items():
            module.training = training
    strides = tuple(side // level.shape[-1] for level in maps)
    expected = head_strides(model)
    if expected is not None and not _same_levels(strides, expected):
        raise WrongUse(
            f"{name}: its neck gives levels of stride {list(strides)}, its head reads "
            f"{list(expected)}: set neck.num_outs and the head's strides alike"
        )
    responses, unread = _value_or_reason(responses_of, model)
    layers, unlayered = _value_or_reason(head_layers, model)
    return Signature(
        name,
        expected or strides,
        tuple(level.shape[1] for level in maps),
        responses,
        layers,
        num_classes(model),
        has_encoder_maps(model),
        unread,
        unlayered,
    )


def _value_or_reason(read: Callable[[Any], T], model: Any) -> tuple[T | None, str]:
    """What ``read`` reads of the model, and the reason if detkds can't read it, else ""."""
    try:
        return read(model), ""
    except Unreadable as reason:
        return None, str(reason)


def _same_levels(strides: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether strides measured on maps are the expected ones.

    Padding changes the size of a map, so each stride may be wrong by a factor below two.
    """
    pairs = zip(strides, expected, strict=False)
    return len(strides) == len(expected) and all(a < 2 * b and b < 2 * a for a, b in pairs)


def _blank_sample(side: int) -> Any:
    from mmdet.structures import DetDataSample

    shapes = ("img_shape", "batch_input_shape", "pad_shape", "ori_shape")
    return DetDataSample(metainfo=dict.fromkeys(shapes, (side, side)))


def num_classes(model: Any) -> int | None:
    """The number of classes of a detector's dense head or RoI head; None without such a head."""
    head = getattr(model, "bbox_head", None)
    if head is None and getattr(model, "roi_head", None) is not None:
        head = model.roi_head.bbox_head
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return getattr(head, "num_classes", None)
