"""Reading checkpoints of mmengine and mmdet without running code that a file brings along.

torch's weights-only unpickler does the reading. What such checkpoints hold beyond tensors
(numpy values, mmengine's log histories) is read into inert records, and made into real objects
only once the unpickler is done.
"""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..space import WrongUse

MapLocation = str | torch.device | Callable[..., Any] | dict[str, str] | None


def load_checkpoint(
    path: str | os.PathLike[str], *, trust: bool = False, map_location: MapLocation = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint file, or download one from an http(s) address and read it.

    ``trust`` lets the file run any code it holds: for files of one's own that need more than
    tensors, plain Python and numpy values and mmengine's log histories.
    Raises :class:`WrongUse` for a file that is missing, no checkpoint or not whole, and for one
    that needs ``trust``.
    """
    source = str(path)
    file = _download(source) if source.startswith(("http://", "https://")) else Path(source)
    checkpoint = _read(file.expanduser(), trust, map_location)
    if not isinstance(checkpoint, dict):
        raise WrongUse(f"{path}: holds a {type(checkpoint).__name__}, a checkpoint is a dictionary")
    return checkpoint


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, trust: bool = False) -> None:
    """Load a checkpoint's weights into ``model``, strictly.

    Takes ``state_dict`` or a bare state dict, with or without ``module.`` before every name;
    only ``num_batches_tracked`` may be absent. Raises :class:`WrongUse` if a weight is missing,
    left over or of another shape, and for whatever :func:`load_checkpoint` refuses.
    """
    checkpoint = load_checkpoint(path, trust=trust)
    weights = checkpoint.get("state_dict", checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise WrongUse(f"{path}: holds no weights by name, neither under state_dict nor bare")
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
        raise WrongUse(
            f"{path}: the checkpoint fits another model: weights {found}; "
            "use the checkpoint of this model's config"
        )


@contextmanager
def allow_runner_resume(*, trust: bool = False) -> Iterator[None]:
    """While open, mmengine's Runner loads and resumes through :func:`load_checkpoint`.

    On its own mmengine 0.10 can't resume with torch 2.6 or newer, and runs whatever code a
    checkpoint holds with an older one.
    """

    schemes = CheckpointLoader._schemes.copy()
    use_safe_loading(trust=trust)
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes


def use_safe_loading(*, trust: bool = False) -> None:
    """From now on mmengine loads every checkpoint of this process by :func:`load_checkpoint`."""

    def load_from_local(filename: str, map_location: MapLocation = None) -> dict[str, Any]:
        checkpoint = load_checkpoint(filename, trust=trust, map_location=map_location)
        if not trust:
            # Runner.resume executes this text as Python, to compare the number of GPUs.
            (checkpoint.get("meta") or {}).pop("config", None)
        return checkpoint

    CheckpointLoader.register_scheme(["", "http://", "https://"], load_from_local, force=True)


def _reshaped(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    """The names whose shapes differ, each with both shapes in words."""
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


def _download(url: str) -> Path:
    """The file of ``url`` in torch.hub's cache, fetched if it is not there yet."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(urlparse(url).path).name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except OSError as error:
            raise WrongUse(f"{url}: can't download the checkpoint: {error}") from None
    return file


def _read(path: Path, trust: bool, map_location: MapLocation) -> Any:
    try:
        file = path.open("rb")
    except OSError as error:
        raise WrongUse(f"{path}: can't read the checkpoint: {error.strerror}") from None
    try:
        with file:
            return _unpickle(file, trust, map_location)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise WrongUse(f"{path}: not a whole checkpoint file as torch.save writes it") from None
        raise WrongUse(
            f"{path}: the checkpoint asks for {wanted[1]}, which may run code; if you trust its "
            "source, load it on purpose with trust=True (trust_checkpoint=True in a config)"
        ) from None
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # a broken file can make a reader stumble anywhere
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WrongUse(f"{path}: can't be read as a checkpoint: {reason}") from None


def _unpickle(file: BinaryIO, trust: bool, map_location: MapLocation) -> Any:
    if trust:
        return torch.load(file, map_location=map_location, weights_only=False)
    with _only_inert_records():
        return _real(torch.load(file, map_location=map_location, weights_only=True))


_STAND_INS: list[Any] = []
_allowing = threading.Lock()


@contextmanager
def _only_inert_records() -> Iterator[None]:
    """Let torch's weights-only unpickler know the stand-ins below, and nothing else."""
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
    """What a pickle calls ``module.name`` is the decorated class or function instead."""

    def register(value: Any) -> Any:
        for path in paths:
            # torch 2.4 goes by the object's own name: each path needs an object of its own.
            stand_in: Any = value if isinstance(value, type) else partial(value)
            stand_in.__module__, stand_in.__name__ = path.rsplit(".", 1)
            stand_in.__qualname__ = stand_in.__name__
            _STAND_INS.append(stand_in)
        return value

    return register


@_stands_for("numpy.dtype")
class _Dtype:
    # numpy's own type takes any flags from a pickle, and would then follow numbers as pointers.

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
    if type(dtype) is not _Dtype:  # anything else could smuggle in an array of pointers
        raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({type(dtype).__name__})")
    return np.ndarray(shape, dtype.real, buffer=content, order=order).copy()


@_stands_for("_codecs.encode")
def _bytes(text: str, *_: Any) -> bytes:
    return text.encode("latin-1")  # how pickle writes bytes at torch.save's protocol


@_stands_for("builtins.bytes")
def _no_bytes() -> bytes:
    return b""


@_stands_for("builtins.getattr")
def _no_attribute(*_: Any) -> None:
    # A log history names the methods it offers; the real one has its own.
    return None


def _real(value: Any) -> Any:
    """``value`` with the records in its dictionaries, lists and tuples replaced, in place."""
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
