"""Whether mmengine can build what trainings name: optimizers, schedulers, hooks, metrics."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mmdet import registry
from mmengine.optim import build_optim_wrapper
from mmengine.registry import Registry
from torch import nn

from ..detectors import register
from ..settings import Schedule
from ..settings.schedules import fitted
from ..space import WrongUse, nearest

Config = Mapping[str, Any]
#: What mmengine takes out before it builds; a base ``mmdet::…`` adds the scope.
_BUILDING = ("type", "priority", "_scope_")
#: The packages that mmengine's visualization backends need and does not install.
_PACKAGES = {
    **{"TensorboardVisBackend": "tensorboard", "WandbVisBackend": "wandb"},
    **{"MLflowVisBackend": "mlflow", "ClearMLVisBackend": "clearml", "AimVisBackend": "aim"},
    **{"NeptuneVisBackend": "neptune", "DVCLiveVisBackend": "dvclive"},
}
#: What an automatic mixed precision's wrapper takes besides; it can't be built without a GPU.
_AMP, _OF_AMP = "AmpOptimWrapper", ("loss_scale", "dtype", "use_fsdp")


def check_schedule(section: str, schedule: Schedule, iterations: int) -> None:
    """Build optimizer and schedulers on a tiny model; ``iterations``: of the whole training.

    Raises :class:`WrongUse` that names the section's key, for a type that is not known and for
    options that it does not take.
    """
    register()
    where = f"{section}.optim_wrapper"
    given = json.loads(json.dumps(schedule.optim_wrapper))
    kind = _found(registry.OPTIM_WRAPPERS, {"type": "OptimWrapper", **given}, where)
    if "constructor" in given:
        # Some read a backbone's layers: a tiny model has none.
        constructor = {"type": given.pop("constructor")}
        _found(registry.OPTIM_WRAPPER_CONSTRUCTORS, constructor, f"{where}.constructor", "")
        given.pop("paramwise_cfg", None)
    if "optimizer" not in given:
        raise WrongUse("it has no optimizer: give dict(type='SGD', lr=…) or another", where)
    _found(registry.OPTIMIZERS, given["optimizer"], f"{where}.optimizer")
    if kind.__name__ == _AMP:
        given = {key: value for key, value in given.items() if key not in ("type", *_OF_AMP)}
    try:
        wrapper = build_optim_wrapper(nn.Linear(1, 1), given)
    except Exception as error:  # torch's optimizers raise anything
        raise WrongUse(f"mmengine can't build it: {_reason(error)}", where) from None
    length = -(-iterations // schedule.epochs)
    schedulers, _ = fitted(schedule.param_scheduler, schedule.epochs, iterations)
    for index, one in enumerate(schedulers):
        where = f"{section}.param_scheduler.{index}"
        _found(registry.PARAM_SCHEDULERS, one, where)
        one.setdefault("end", schedule.epochs if one.get("by_epoch", True) else iterations)
        try:
            own = {"optimizer": wrapper, "epoch_length": length}
            registry.PARAM_SCHEDULERS.build(one, default_args=own)
        except Exception as error:
            reason = f"mmengine can't build {one['type']}: {_reason(error)}"
            raise WrongUse(reason, where) from None


def needs_gpu(schedule: Schedule) -> bool:
    """Whether the optimizer's wrapper runs on GPUs only: automatic mixed precision."""
    return str(schedule.optim_wrapper.get("type")).rpartition(".")[2] == _AMP


def check_job(job: Config) -> None:
    """Look up what a job names, and whether it takes the options; nothing is built.

    Raises :class:`WrongUse` as :func:`check_schedule` does.
    """
    register()
    for where, known, config in _parts(job):
        if config is not None and "metrics" not in config:  # no hook of mmengine's; an evaluator
            _check(known, config, where)
    backends = (job.get("visualizer") or {}).get("vis_backends")
    check_backends(_listed(backends), "job.visualizer.vis_backends")


def check_backends(backends: Iterable[Any], where: str) -> None:
    """Look up visualization backends, as :func:`check_job` does, and the packages they need."""
    register()
    for index, backend in enumerate(backends):
        one = f"{where}.{index}"
        name = _check(registry.VISBACKENDS, backend, one).__name__
        package = _PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise WrongUse(
                f"{name} needs the package {package}, which is not installed: "
                f"`pip install {package}`, or leave the backend out",
                one,
            )


def _check(known: Registry, config: Config, where: str) -> Any:
    """The class that a config names; :class:`WrongUse` for options that the class does not take."""
    kind = _found(known, config, where)
    options = {key: value for key, value in config.items() if key not in _BUILDING}
    try:
        inspect.signature(kind).bind_partial(**options)
    except TypeError as error:
        raise WrongUse(f"{kind.__name__} does not take it: {_reason(error)}", where) from None
    except ValueError:  # a class that does not say what it takes
        pass
    return kind


def _parts(job: Config) -> Iterator[tuple[str, Registry, Any]]:
    """What a job names, with its key and the registry that must hold it."""
    for name, hook in (job.get("default_hooks") or {}).items():
        yield f"job.default_hooks.{name}", registry.HOOKS, hook
    lists = {"custom_hooks": registry.HOOKS, "val_evaluator": registry.METRICS}
    for key, known in lists.items():
        for index, one in enumerate(_listed(job.get(key))):
            yield f"job.{key}.{index}", known, one
    visualizer = job.get("visualizer")
    if visualizer:
        yield "job.visualizer", registry.VISUALIZERS, visualizer
    for loader in ("train_dataloader", "val_dataloader"):
        for key in ("sampler", "batch_sampler"):
            yield f"job.{loader}.{key}", registry.DATA_SAMPLERS, (job.get(loader) or {}).get(key)


def _listed(value: Any) -> Iterable[Any]:
    if value is None:
        return []
    return value if isinstance(value, Sequence) else [value]


def _found(known: Registry, config: Any, where: str, key: str = ".type") -> Any:
    """The class that a config names."""
    kind = config.get("type") if isinstance(config, Mapping) else None
    if isinstance(kind, type):
        return kind
    found = known.get(kind) if isinstance(kind, str) else None
    if found is None:
        names = [*known.module_dict, *(known.parent.module_dict if known.parent else ())]
        raise WrongUse(f"unknown {known.name} {kind!r}: {nearest(kind, names)}", f"{where}{key}")
    return found


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
