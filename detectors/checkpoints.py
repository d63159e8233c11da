"""Reading checkpoints of mmengine and mmdet without running code that a file contains.

torch's weights-only unpickler reads the file. Checkpoints also hold numpy values and mmengine's log
histories. The unpickler reads these into inert records; when it is done, the records become real
objects.
"""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..space import WrongUse
from .downloads import local_file

#: How messages say what a checkpoint file must be.
SAVED = "a file as torch.save writes it, downloaded to its end"
#: Schemes of mmengine whose loaders call :func:`torch.load` themselves.
_CLIENTS = ["pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"]
MapLocation = str | torch.device | Callable[..., Any] | dict[str, str] | None


def load_checkpoint(
    path: str | os.PathLike[str], *, trust: bool = False, map_location: MapLocation = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint from a file, or from an http(s) address (see :func:`local_file`).

    ``trust`` lets the file run any code it contains. It is for files whose source you trust and
    that hold other objects than tensors, plain Python and numpy values and mmengine's log
    histories. Raises :class:`WrongUse` for a file that is missing, is not a checkpoint, is not
    whole or needs ``trust``.
    """
    checkpoint = _read(local_file(path), trust, map_location)
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise WrongUse(f"{path}: holds a {kind}; give a checkpoint, which is a dictionary")
    return checkpoint


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, trust: bool = False) -> None:
    """Load a checkpoint's weights into ``model``, strictly.

    The checkpoint is a dictionary with a ``state_dict``, or a state dict itself. Its names may all
    begin with ``module.``. Only ``num_batches_tracked`` may be missing. Raises :class:`WrongUse` if
    a weight is missing, left over or of another shape, and for every file that
    :func:`load_checkpoint` refuses.
    """
    checkpoint = load_checkpoint(path, trust=trust)
    weights = checkpoint.get("state_dict", checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise WrongUse(f"{path}: holds no weights by name; give a checkpoint with a `state_dict`")
    consume_prefix_in_state_dict_if_present(weights, "module.")
    reshaped = _reshaped(weights, model.state_dict())
    for name in reshaped:
        del weights[name]
    keys = model.load_state_dict(weights, strict=False)
    missing = [
        name
        for name in keys.missing_keys
        if name not in reshaped and not name.endswith("num_batches_tracked")
    ]
    faults = {
        "missing": missing,
        "left over": keys.unexpected_keys,
        "of another shape": list(reshaped.values()),
    }
    if any(faults.values()):
        found = ", ".join(
            f"{len(names)} {fault} (first {names[0]})" for fault, names in faults.items() if names
        )
        own = model.state_dict()
        fitting = sum(name in own for name in weights)
        raise WrongUse(
            f"{path}: the checkpoint fits another model: {fitting} of the model's {len(own)} "
            f"weights fit; weights {found}; use the checkpoint of this model's config"
        )


@contextmanager
def allow_runner_resume(*, trust: bool = False) -> Iterator[None]:
    """Inside of the ``with``, mmengine's Runner loads and resumes by :func:`load_checkpoint`.

    mmengine 0.10 can't resume with torch 2.6 or newer by itself. With an older torch it runs all
    code that a checkpoint contains.
    """

    schemes, load_from_http = CheckpointLoader._schemes.copy(), mmengine_checkpoint.load_from_http
    use_safe_loading(trust=trust)
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes
        mmengine_checkpoint.load_from_http = load_from_http


@cache
def load_safely_from_now_on() -> None:
    """Call :func:`use_safe_loading` once; inside of :func:`allow_runner_resume`, that stays."""
    use_safe_loading()


def use_safe_loading(*, trust: bool = False) -> None:
    """Make mmengine load every checkpoint of this process by :func:`load_checkpoint`.

    The names of model zoos (``torchvision://resnet50``) stand for addresses. What needs a client of
    its own (``s3://``, ``petrel://``, ``pavi://``) is refused: the clients read it by themselves.
    """

    def load_from_local(filename: str, map_location: MapLocation = None) -> dict[str, Any]:
        checkpoint = load_checkpoint(filename, trust=trust, map_location=map_location)
        if not trust:
            # Runner.resume would execute this text as Python, to compare the number of GPUs.
            (checkpoint.get("meta") or {}).pop("config", None)
        return checkpoint

    def load_from_http(filename: str, map_location: MapLocation = None, **_: Any) -> dict[str, Any]:
        return load_from_local(filename, map_location)

    def refuse(filename: str, map_location: MapLocation = None) -> dict[str, Any]:
        raise WrongUse(
            f"{filename}: a checkpoint is a file or an http(s) address; give one of these"
        )

    CheckpointLoader.register_scheme(["", "http://", "https://"], load_from_local, force=True)
    CheckpointLoader.register_scheme(_CLIENTS, refuse, force=True)
    mmengine_checkpoint.load_from_http = load_from_http  # what the loaders of model zoos call


def _reshaped(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    """The weights whose shapes differ from the model's ``own``: name, and both shapes in words."""
    shapes = {
        name: (getattr(value, "shape", None), getattr(own[name], "shape", None))
        for name, value in weights.items()
        if name in own
    }
    return {
        name: f"{name}, {_shape(found)} instead of {_shape(expected)}"
        for name, (found, expected) in shapes.items()
        if found != expected
    }


def _shape(shape: torch.Size | None) -> str:
    return "no tensor" if shape is None else "x".join(map(str, shape)) or "a scalar"


def _read(path: Path, trust: bool, map_location: MapLocation) -> Any:
    try:
        file = path.open("rb")
    except OSError as error:
        raise WrongUse(
            f"{path}: can't read the checkpoint: {error.strerror}; give a checkpoint file"
        ) from None
    try:
        with file:
            return _unpickle(file, trust, map_location)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise WrongUse(f"{path}: not a whole checkpoint; give {SAVED}") from None
        raise WrongUse(
            f"{path}: the checkpoint asks for {wanted[1]}, which may run code; if you trust its "
            "source, set trust_checkpoint=True in the config (trust=True in a call)"
        ) from None
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # a broken file can make the unpickler raise any exception
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WrongUse(f"{path}: can't be read as a checkpoint: {reason}; give {SAVED}") from None


def _unpickle(file: BinaryIO, trust: bool, map_location: MapLocation) -> Any:
    if trust:
        return torch.load(file, map_location=map_location, weights_only=False)
    with _only_inert_records():
        return _real(torch.load(file, map_location=map_location, weights_only=True))


#: The inert records, under the names by which a pickle calls the real objects.
_STAND_INS: list[Any] = []
_allowing = threading.Lock()


@contextmanager
def _only_inert_records() -> Iterator[None]:
    """Allow torch's weights-only unpickler the stand-ins below, and no other global."""
    with _allowing:
        before = list(torch.serialization.get_safe_globals())
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(_STAND_INS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _stands_for(*paths: str) -> Callable[[Any], Any]:
    """Let the decorated class or function stand in for each ``module.name`` of ``paths``."""

    def register(value: Any) -> Any:
        for path in paths:
            # torch 2.4 looks a global up by the object's own name: each path needs its own object.
            stand_in: Any = value if isinstance(value, type) else partial(value)
            stand_in.__module__, stand_in.__name__ = path.rsplit(".", 1)
            stand_in.__qualname__ = stand_in.__name__
            _STAND_INS.append(stand_in)
        return value

    return register


@_stands_for("numpy.dtype")
class _Dtype:
    # numpy's own type takes any flags from a pickle. With some flags it takes bytes for pointers.

    def __init__(self, code: str, *_: Any) -> None:
        self.real = np.dtype(code)
        if self.real.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r})")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.real = self.real.newbyteorder(state[1])


@_stands_for("numpy.ndarray")
class _Array:
    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_column, content = state
        self.real = _numbers(shape, dtype, content, "F" if by_column else "C")


@_stands_for("mmengine.logging.history_buffer.HistoryBuffer")
class _HistoryBuffer:
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.real = HistoryBuffer(
            _real(state["_log_history"]), _real(state["_count_history"]), state["max_length"]
        )


@_stands_for("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
def _empty_array(*_: Any) -> _Array:
    return _Array()


@_stands_for("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return _numbers((), dtype, content)[()]


def _numbers(
    shape: tuple[int, ...], dtype: _Dtype, content: bytes, order: Literal["C", "F"] = "C"
) -> np.ndarray:
    if type(dtype) is not _Dtype:  # any other dtype could make an array of pointers
        raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({type(dtype).__name__})")
    return np.ndarray(shape, dtype.real, buffer=content, order=order).copy()


@_stands_for("_codecs.encode")
def _bytes(text: str, *_: Any) -> bytes:
    return text.encode("latin-1")  # at torch.save's protocol, pickle writes bytes as such text


@_stands_for("builtins.bytes")
def _no_bytes() -> bytes:
    return b""


@_stands_for("builtins.getattr")
def _no_attribute(*_: Any) -> None:
    # A pickled log history refers to its methods by getattr. The real object has them already.
    return None


def _real(value: Any) -> Any:
    """Replace every record in ``value`` by its real object; dictionaries and lists in place."""
    if isinstance(value, _Dtype | _Array | _HistoryBuffer):
        return value.real
    if isinstance(value, dict):
        for key in value:
            value[key] = _real(value[key])
    elif isinstance(value, list):
        value[:] = map(_real, value)
    elif type(value) is tuple:
        return tuple(map(_real, value))
    return value
