"""``mmcv.ops`` without a compiled mmcv: the stand-in takes its place, and detectors work."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mmcv
import mmdet
import pytest
import torch
from detkds.detectors.operators import install
from mmengine.config import Config
from mmengine.utils.dl_utils import mmcv_full_available

torch.set_num_threads(1)
if not install():
    pytest.skip("a compiled mmcv is installed: nothing stands in", allow_module_level=True)

from mmcv import ops  # noqa: E402  (importable only now)

devices = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
        ),
    ],
)


# Installing


def test_installing_twice_keeps_the_one_module() -> None:
    extension = sys.modules["mmcv._ext"]
    assert install()
    assert sys.modules["mmcv._ext"] is extension
    assert extension.__spec__ is not None
    assert extension.__spec__.name == "mmcv._ext"
    assert mmcv_full_available(), "mmengine must see that mmcv.ops can be imported"


def test_other_operators_say_how_to_get_them_when_called() -> None:
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


# Whole detectors from mmdet's stock configs


def thin_detector(config: str) -> Any:
    """The stock detector on a thin ResNet-18, not pretrained, with two classes."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    stock = Path(mmdet.__file__).parent / ".mim" / "configs" / config
    model = Config.fromfile(stock).model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    for head in ("rpn_head", "bbox_head"):
        if head in model:
            model[head].update(in_channels=16, feat_channels=16)
    if "roi_head" in model:
        heads = model.roi_head
        heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = 16
        heads.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=2)
        heads.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=2)
    else:
        model.bbox_head.num_classes = 2
    torch.manual_seed(0)
    return MODELS.build(model)


@devices
@pytest.mark.parametrize(
    "config", ["retinanet/retinanet_r18_fpn_1x_coco.py", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"]
)
def test_a_stock_detector_learns_and_predicts(config: str, device: str) -> None:
    from mmdet.testing import demo_mm_inputs

    detector = thin_detector(config).to(device)
    batch = demo_mm_inputs(
        2, [[3, 64, 96], [3, 80, 64]], num_items=[2, 1], num_classes=2, with_mask=True
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
