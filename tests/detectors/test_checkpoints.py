"""Checkpoints load without running code; a file that can't be used gives an error of one line."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detkds.detectors import build_detector, model_config
from detkds.detectors.checkpoints import load_checkpoint, load_weights
from detkds.space import WrongUse
from torch import nn


class Payload:
    """An object whose pickle calls ``function`` when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WrongUse) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# Values in mmdet's checkpoints that are no tensors


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numpy_values_written_by_numpy_1_and_2_load(tmp_path: Path, core: str) -> None:
    values: dict[str, Any] = {
        "single": np.float32(0.25),
        "count": np.int64(-3),
        "flag": np.bool_(True),
        "text": np.str_("été"),
        "big_endian": np.arange(3, dtype=">i4"),
        "by_column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 4)),
        "dtype": np.dtype("<f4"),
        "nested": (1, [np.arange(3), np.float64(2.5)], OrderedDict(x=np.arange(2))),
    }
    path = saved(tmp_path / "values.pth", {"meta": values, "state_dict": OrderedDict()})
    own = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray")
    rename_in_pickle(path, f"{own}.multiarray", f"{core}.multiarray")
    loaded = load_checkpoint(path)["meta"]
    for name in ("single", "count", "flag", "text", "big_endian", "by_column", "empty"):
        assert type(loaded[name]) is type(values[name])
        assert loaded[name].dtype == values[name].dtype
        np.testing.assert_array_equal(loaded[name], values[name])
    assert loaded["dtype"] == values["dtype"]
    np.testing.assert_array_equal(loaded["nested"][1][0], np.arange(3))
    assert loaded["nested"][1][1] == 2.5
    np.testing.assert_array_equal(loaded["nested"][2]["x"], np.arange(2))


def rename_in_pickle(path: Path, old: str, new: str) -> None:
    """Rewrite a module's name in the pickle of a file that torch.save wrote."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if name.endswith("data.pkl"):
                assert f"c{old}\n".encode() in content
                content = content.replace(f"c{old}\n".encode(), f"c{new}\n".encode())
            archive.writestr(name, content)


# Files that contain code


def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = {"state_dict": {}, "meta": Payload(os.system, f"touch {marker}")}
    path = saved(tmp_path / "hostile.pth", content)
    message = refusal(path)
    assert "posix.system" in message or "nt.system" in message
    assert "trust=True" in message
    assert not marker.exists()
    load_checkpoint(path, trust=True)
    assert marker.exists(), "the payload should have been able to do harm"


def test_a_hostile_file_in_the_legacy_format_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "legacy.pth"
    content = {"a": torch.ones(2), "b": Payload(os.system, f"touch {marker}")}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert "system" in refusal(path)
    assert not marker.exists()


def opcodes(path: Path, body: bytes) -> Path:
    """A torch.save file whose pickle is ``body``."""
    saved(path, {})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, b"\x80\x02" + body if name.endswith("data.pkl") else content)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def test_getattr_in_a_pickle_gives_none(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    # The first file calls getattr(numpy.ndarray, "__class__")("touch marker"). The second file
    # holds getattr(numpy.ndarray, "__class__") as a value.
    attribute = b"cbuiltins\ngetattr\ncnumpy\nndarray\n" + text("__class__") + b"\x86R"
    call = attribute + text(f"touch {marker}") + b"\x85R."
    refusal(opcodes(tmp_path / "called.pth", call))
    held = opcodes(tmp_path / "held.pth", b"}" + text("x") + attribute + b"s.")
    assert load_checkpoint(held) == {"x": None}
    assert not marker.exists()


@pytest.mark.parametrize("wanted", ["builtins.eval", "builtins.setattr", "numpy.load", "torch.hub"])
def test_a_refusal_names_the_global_that_is_refused(tmp_path: Path, wanted: str) -> None:
    module, name = wanted.rsplit(".", 1)
    body = f"c{module}\n{name}\n".encode() + text("x") + b"\x85R."
    assert name in refusal(opcodes(tmp_path / "wanted.pth", body))


def test_arrays_of_objects_and_records_are_refused(tmp_path: Path) -> None:
    assert "dtype('O8')" in refusal(saved(tmp_path / "o.pth", {"x": np.array([{}], dtype=object)}))
    record = np.zeros(1, dtype=[("a", "f4")])
    assert "dtype('V4')" in refusal(saved(tmp_path / "v.pth", {"x": record}))
    # A dtype with flags that call its bytes references loads without these flags.
    flags = b"cnumpy\ndtype\n" + text("f8") + b"\x85R"
    flags += b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    held = opcodes(tmp_path / "flags.pth", b"}" + text("x") + flags + b"s.")
    assert load_checkpoint(held)["x"].flags == 0


def test_an_array_whose_dtype_is_no_dtype_is_refused(tmp_path: Path) -> None:
    array = b"cnumpy._core.multiarray\n_reconstruct\n)R"
    state = b"(K\x01K\x01\x85K\x07\x89" + text("12345678") + b"tb"
    assert "numpy.dtype(int)" in refusal(opcodes(tmp_path / "int.pth", array + state + b"."))


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pth"
    torch.jit.script(nn.ReLU()).save(str(path))
    refusal(path)


# Files that are no checkpoints


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.pth")
    assert "can't read the checkpoint" in refusal(tmp_path)
    whole = saved(tmp_path / "whole.pth", {"state_dict": detector().state_dict()}).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    refusal(tmp_path / "half.pth")
    for name, content in (("text", b"not a checkpoint\n"), ("empty", b""), ("zeros", bytes(99))):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    (tmp_path / "pickle").write_bytes(pickle.dumps({"state_dict": {}}))
    refusal(tmp_path / "pickle")
    assert "a list" in refusal(saved(tmp_path / "list.pth", [1, 2]))


# Weights into a model


def detector() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)))


def model_zoo_file(path: Path, weights: dict[str, Any]) -> Path:
    meta = {
        "env_info": "MMCV: 1.3.8",
        "config": "raise SystemExit('a configuration was run')",
        "CLASSES": ("person", "bicycle"),
        "hook_msgs": {"best_score": np.float64(0.365)},
        "epoch": 12,
    }
    return saved(path, {"meta": meta, "state_dict": weights})


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [False, True])
def test_weights_load_from_every_usual_kind_of_file(
    tmp_path: Path, prefix: str, bare: bool
) -> None:
    source, target = detector(), detector()
    weights = source.state_dict(prefix=prefix)
    weights.pop(f"{prefix}norm.num_batches_tracked")
    path = tmp_path / "weights.pth"
    saved(path, weights) if bare else model_zoo_file(path, weights)
    load_weights(target, path)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, rtol=0, atol=0)


def test_the_error_names_the_first_weight_of_each_fault(tmp_path: Path) -> None:
    weights = detector().state_dict()
    del weights["norm.weight"], weights["norm.bias"]
    weights["conv.weight"] = torch.zeros(8, 3, 1, 1)
    weights["bbox_head.weight"] = torch.zeros(1)
    path = model_zoo_file(tmp_path / "other.pth", weights)
    with pytest.raises(WrongUse) as caught:
        load_weights(detector(), path)
    message = str(caught.value)
    assert message.startswith(f"{path}: the checkpoint fits another model: ")
    assert "2 missing (first norm.weight)" in message
    assert "1 left over (first bbox_head.weight)" in message
    assert "1 of another shape (first conv.weight, 8x3x1x1 instead of 4x3x1x1)" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [{"state_dict": [1]}, {"state_dict": {1: 2}}, {3: 4}])
def test_a_file_without_named_weights_is_refused(tmp_path: Path, content: dict[Any, Any]) -> None:
    path = saved(tmp_path / "nameless.pth", content)
    with pytest.raises(WrongUse, match="holds no weights by name"):
        load_weights(detector(), path)


def test_a_weight_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    weights = detector().state_dict() | {"conv.bias": 3}
    with pytest.raises(WrongUse, match=r"first conv\.bias, no tensor instead of 4"):
        load_weights(detector(), saved(tmp_path / "w.pth", dict(weights)))


# Weights that a model's config names


def test_pre_trained_weights_of_a_config_run_no_code(tmp_path, monkeypatch):
    """torch's own setting lets mmengine's loader run what a file contains."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    file = saved(tmp_path / "evil.pth", {"state_dict": Payload(canary.touch)})
    for where in ("", "open-mmlab://evil"):
        model = model_config("detkds::retinanet_r18_thin.py")
        model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": where or str(file)}
        if where:
            monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
            (tmp_path / "open_mmlab.json").write_text('{"evil": "http://127.0.0.1:9/evil.pth"}')
        detector = build_detector(model)
        with pytest.raises(WrongUse, match="may run code" if not where else "can't download"):
            detector.init_weights()
    for client in ("s3://bucket/x.pth", "pavi://x", "cluster:petrel://x"):
        model.backbone.init_cfg.checkpoint = client
        with pytest.raises(WrongUse, match="a checkpoint is a file or an http"):
            build_detector(model).init_weights()
    assert not canary.exists()


def test_pre_trained_weights_of_a_config_load_with_numpy_values(tmp_path):
    model = model_config("detkds::retinanet_r18_thin.py")
    source = build_detector(model).backbone
    state = {"state_dict": source.state_dict(), "meta": {"loss": np.float64(0.5)}}
    model.backbone.init_cfg = {
        "type": "Pretrained", "checkpoint": str(saved(tmp_path / "backbone.pth", state))
    }  # fmt: skip
    detector = build_detector(model)
    detector.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(value, detector.backbone.state_dict()[name]), name
