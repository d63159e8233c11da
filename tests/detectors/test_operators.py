"""``mmcv.ops`` without a compiled mmcv: the stand-in takes its place, and detectors train."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mmcv
import pytest
import torch
from detkds.detectors.operators import install
from mmcv_operators import devices, needs_stand_in, ops
from mmengine.utils.dl_utils import mmcv_full_available
from thin_detectors import CLASSES, thin_detector

pytestmark = needs_stand_in


def test_a_second_install_keeps_the_module() -> None:
    extension = sys.modules["mmcv._ext"]
    assert install()
    assert sys.modules["mmcv._ext"] is extension
    assert extension.__spec__ is not None
    assert extension.__spec__.name == "mmcv._ext"
    assert mmcv_full_available(), "mmengine must see that mmcv.ops can be imported"


def test_a_missing_operator_says_how_to_install_it() -> None:
    extension = importlib.import_module("mmcv._ext")
    features, argmax = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2, dtype=torch.int)
    with pytest.raises(NotImplementedError) as caught:
        ops.RoIPool(2)(features, torch.zeros(1, 5))
    assert "'roi_pool_forward'" in str(caught.value)
    assert f"pip install mmcv=={mmcv.__version__}" in str(caught.value)
    with pytest.raises(NotImplementedError, match="'no_such_operator'"):
        extension.no_such_operator(features, argmax, pooled_height=2)
    assert not hasattr(extension, "__path__")


def test_the_environment_report_works() -> None:
    from mmcv.utils.env import collect_env

    assert collect_env()["MMCV Compiler"] == "n/a"


def test_a_compiled_extension_in_use_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = ModuleType("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert not install()
    assert sys.modules["mmcv._ext"] is compiled


@pytest.mark.slow
def test_a_compiled_extension_on_the_path_is_untouched(tmp_path: Path) -> None:
    (tmp_path / "_ext.py").write_text("compiled = True\n")
    script = (
        "import sys, mmcv\n"
        f"mmcv.__path__.append({str(tmp_path)!r})\n"
        "from detkds.detectors.operators import install\n"
        "assert not install()\n"
        "assert 'mmcv._ext' not in sys.modules\n"
        "import mmcv._ext\n"
        "assert mmcv._ext.compiled\n"
        "assert not install()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@devices
@pytest.mark.parametrize("family", ["retinanet", "mask_rcnn"])
def test_a_stock_detector_learns_and_predicts(family: str, device: str) -> None:
    from mmdet.testing import demo_mm_inputs

    detector = thin_detector(family).to(device)
    batch = demo_mm_inputs(
        2, [[3, 64, 96], [3, 80, 64]], num_items=[2, 1], num_classes=CLASSES, with_mask=True
    )
    batch = detector.data_preprocessor(batch, training=True)
    total, _ = detector.parse_losses(detector(**batch, mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
    assert detector.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0
    detector.eval()
    with torch.no_grad():
        results = detector(**batch, mode="predict")
    for result in results:
        found = result.pred_instances
        assert found.bboxes.shape == (len(found.scores), 4)
        assert len(found.scores) <= 100
    assert len(results) == 2
