"""Adaptation costs: least squares from moments, against numpy and against training the maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detkds.search.teachers.adaptation import HELD_OUT, Moments, _cost, _images, adaptation_costs
from detkds.space import WrongUse
from thin_detectors import thin_detector
from torch import Tensor, nn

#: Pixels a side of the images.
SIDE = 64


def images(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 8, 8, generator=generator) * 255
    return nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")


def batches(number: int = 40, size: int = 2, side: int = SIDE) -> list[dict[str, Any]]:
    """Batches as a data loader gives them: raw pixels, and samples with their shapes."""
    from thin_detectors import batch

    _, samples = batch(side, size)
    pixels = images(number)
    if side != SIDE:
        pixels = nn.functional.interpolate(pixels, size=(side, side), mode="bilinear")
    return [
        {"inputs": list(part.to(torch.uint8)), "data_samples": samples}
        for part in pixels.split(size)
    ]


def costs_of(models: dict[str, Any], sides: dict[str, int] | None = None, number: int = 40) -> dict:
    """The costs of models that see the same images, at these sides where they are given."""
    sizes = {name: ((sides or {}).get(name, SIDE),) * 2 for name in models}
    views = {size: batches(number, side=size[0]) for size in sizes.values()}
    return adaptation_costs(models, sizes, views)


def related(seed: int, channels: dict[str, int], positions: int) -> dict[str, Tensor]:
    """Features, (1, C, 1, positions): a common cause under different means and noise."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.Generator().manual_seed(99)
    cause = torch.randn(6, positions, generator=generator)
    maps = {}
    for name, width in channels.items():
        weights = torch.randn(width, 6, generator=mix)
        noise = 0.3 * torch.randn(width, positions, generator=generator)
        maps[name] = (weights @ cause + noise + 2)[None, :, None]
    return maps


def rows(maps: dict[str, Tensor], name: str) -> np.ndarray:
    return maps[name][0, :, 0].T.double().numpy()


def test_the_map_is_numpys_least_squares() -> None:
    channels = {"a": 5, "b": 8}
    seen, held = related(0, channels, 900), related(1, channels, 400)
    moments = Moments(channels)
    for part in (0, 300, 600):
        third = {n: f[..., part : part + 300] for n, f in seen.items()}
        moments.add(third, (1, 300), held_out=False)
    moments.add(held, (1, 400), held_out=True)
    for source, target in (("a", "b"), ("b", "a")):
        inputs = np.c_[np.ones(900), rows(seen, source)]
        weights = np.linalg.lstsq(inputs, rows(seen, target), rcond=None)[0]
        fit = ((inputs @ weights - rows(seen, target)) ** 2).mean()
        test = np.c_[np.ones(400), rows(held, source)] @ weights - rows(held, target)
        found = moments.cost(source, target)
        assert found == pytest.approx((fit, (test**2).mean()), rel=1e-4)


def test_channels_that_say_nothing_or_the_same_do_no_harm() -> None:
    """With a dead and a doubled channel the covariance has no inverse; the cost is the same."""
    channels = {"a": 5, "b": 8}
    seen = related(0, channels, 900)
    doubled = {
        "a": torch.cat([seen["a"], seen["a"][:, :1], 0 * seen["a"][:, :1]], 1),
        "b": seen["b"],
    }
    costs = []
    for maps, widths in ((seen, channels), (doubled, {"a": 7, "b": 8})):
        moments = Moments(widths)
        moments.add(maps, (1, 900), held_out=False)
        moments.add(maps, (1, 900), held_out=True)
        costs.append(moments.cost("a", "b"))
    assert costs[0] == pytest.approx(costs[1], rel=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (8, 8)])
def test_maps_of_another_size_are_resized(size: tuple[int, int]) -> None:
    moments = Moments({"a": 2, "b": 2})
    small = torch.rand(1, 2, 4, 4)
    large = nn.functional.interpolate(small, size=(8, 8))
    for held_out in (False, True):
        moments.add({"a": small, "b": large}, size, held_out=held_out)
    assert moments.cost("a", "b") == pytest.approx((0, 0), abs=1e-6)
    assert moments.cost("b", "a") == pytest.approx((0, 0), abs=1e-6)


def test_memory_does_not_grow_with_the_images() -> None:
    moments = Moments({"a": 4, "b": 4})
    before = moments.sums.shape
    for seed in range(5):
        moments.add(related(seed, {"a": 4, "b": 4}, 100), (1, 100), held_out=False)
    assert moments.sums.shape == before == (2, 9, 9)


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], dict]:
    models = {
        "retinanet": thin_detector("retinanet", neck=12).eval(),
        "fcos": thin_detector("fcos", seed=1, neck=16).eval(),
        "faster_rcnn": thin_detector("faster_rcnn", seed=2, neck=12).eval(),
    }
    return models, costs_of(models)


def test_each_model_sees_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = thin_detector("retinanet").eval()
    other = thin_detector("retinanet", seed=1).eval()
    calls = []
    forward = model.extract_feat
    monkeypatch.setattr(model, "extract_feat", lambda x: calls.append(len(x)) or forward(x))
    costs_of({"a": model, "b": other}, number=20)
    assert sum(calls) == 20 + 1  # 20 images, and the blank image of the signature


def test_all_pairs_have_costs_by_level(measured) -> None:
    models, costs = measured
    assert set(costs) == {(a, b) for a in models for b in models if a != b}
    for pair, cost in costs.items():
        assert set(cost.levels) == {8, 16, 32, 64} | ({128} - {128 for m in pair if "rcnn" in m})
        assert cost.fit > 0
    for pair in (("retinanet", "fcos"), ("fcos", "retinanet")):
        levels = [held for _, held in costs[pair].levels.values()]
        assert costs[pair].held_out == pytest.approx(sum(levels) / 5), "all levels are shared"


def test_no_cost_depends_on_the_other_models_of_the_pool(measured) -> None:
    """A pair of two-stage detectors shares strides 4 to 64, the FCOS that joins has 8 to 128."""
    pair = {
        "faster_rcnn": measured[0]["faster_rcnn"],
        "other": thin_detector("faster_rcnn", seed=3, neck=20).eval(),
    }
    alone = costs_of(pair, number=20)
    joined = costs_of({**pair, "fcos": measured[0]["fcos"]}, {"fcos": 96}, number=20)
    assert len(joined) == 6
    for names, cost in alone.items():
        assert set(cost.levels) == set(joined[names].levels) == {4, 8, 16, 32, 64}
        found = [joined[names].held_out, joined[names].fit]
        assert found == pytest.approx([cost.held_out, cost.fit], rel=1e-3)


def test_costs_to_a_detector_compare_whatever_levels_the_others_have() -> None:
    """Of two models that explain the same share of every level, neither is the closer.

    B's finer level varies a hundred times as much; the second model has the coarser level alone. A
    mean over the shared levels would be 50 times lower for it, a sum 101 times.
    """
    coarse, fine = (Moments({"all": 5, "some": 5, "b": 8}), Moments({"all": 5, "b": 8}))
    for held_out in (False, True):
        maps = related(int(held_out), {"a": 5, "b": 8}, 900)
        coarse.add({"all": maps["a"], "some": maps["a"], "b": maps["b"]}, (1, 900), held_out)
        fine.add({"all": maps["a"], "b": 10 * maps["b"]}, (1, 900), held_out)
    levels = {4: fine, 8: coarse}
    whole, part = _cost("all", "b", (4, 8), levels), _cost("some", "b", (8,), levels)
    assert part.levels == {8: whole.levels[8]}
    assert (part.held_out, part.fit) == pytest.approx((whole.held_out, whole.fit), rel=1e-6)
    assert whole.held_out == pytest.approx((whole.levels[4][1] + whole.levels[8][1]) / 2)
    left = part.levels[8][1] / coarse.variance("b")[1]
    assert part.held_out / ((fine.variance("b")[1] + coarse.variance("b")[1]) / 2) == (
        pytest.approx(left)
    ), "the share of the variance that is left"


def test_the_variance_is_numpys() -> None:
    moments, maps = Moments({"a": 5}), related(0, {"a": 5}, 900)
    moments.add(maps, (1, 900), held_out=False)
    moments.add(maps, (1, 900), held_out=True)
    expected = rows(maps, "a").var(0).mean()
    assert moments.variance("a") == pytest.approx((expected, expected), rel=1e-4)


def test_the_padding_does_not_count(measured) -> None:
    (raw, *_) = batches(2)
    raw["data_samples"] = [sample.clone() for sample in raw["data_samples"]]
    raw["data_samples"][0].set_metainfo({"img_shape": (40, 64)})
    cut, whole = _images(measured[0]["retinanet"], raw, (8, 16, 32, 64, 128))
    assert [tuple(level.shape[-2:]) for level in cut.values()][:3] == [(5, 8), (3, 4), (2, 2)]
    assert whole[8].shape[-2:] == (8, 8)


def test_a_model_sees_images_of_its_own_size(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {name: measured[0][name] for name in ("retinanet", "fcos")}
    seen: dict[str, set] = {name: set() for name in models}
    for name, model in models.items():
        forward = model.extract_feat

        def look(x: Tensor, name: str = name, forward: Any = forward) -> Any:
            seen[name].add(tuple(x.shape[-2:]))
            return forward(x)

        monkeypatch.setattr(model, "extract_feat", look)
    costs = costs_of(models, {"fcos": 96}, number=10)
    blank = {(256, 256)}  # the image of the signature
    assert seen == {"retinanet": {(64, 64)} | blank, "fcos": {(96, 96)} | blank}
    assert all(cost.held_out > 0 for cost in costs.values())


def features(model: Any, held_out: bool, stride: int) -> Tensor:
    """The level's features on one split's images: (positions, C)."""
    strides = (4, 8, 16, 32, 64) if hasattr(model, "roi_head") else (8, 16, 32, 64, 128)
    parts = []
    with torch.no_grad():
        for index, raw in enumerate(batches()):
            if (index % HELD_OUT == HELD_OUT - 1) == held_out:
                data = model.data_preprocessor(raw, False)
                level = model.extract_feat(data["inputs"])[strides.index(stride)]
                parts.append(level.transpose(0, 1).flatten(1).T)
    return torch.cat(parts).double()


@pytest.mark.parametrize("pair", [("retinanet", "fcos"), ("fcos", "faster_rcnn")])
def test_training_the_maps_comes_to_the_same(measured, pair: tuple[str, str]) -> None:
    """r(·) trained to convergence is never below the closed form on the images it was fitted on."""
    models, costs = measured
    stride = 8
    source, target = (features(models[name], False, stride) for name in pair)
    held = [features(models[name], True, stride) for name in pair]
    mean, scale = source.mean(0), source.std(0) + 1e-12  # standardised inputs converge sooner
    layer = nn.Linear(source.shape[1], target.shape[1]).double()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer((source - mean) / scale), target)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    trained = float(closure())
    with torch.no_grad():
        held_out = float(nn.functional.mse_loss(layer((held[0] - mean) / scale), held[1]))
    fit, found = costs[pair].levels[stride]
    assert fit <= trained * (1 + 1e-4)
    assert found == pytest.approx(held_out, rel=0.01)


def test_too_few_images_are_refused() -> None:
    models = {
        "a": thin_detector("retinanet").eval(),
        "b": thin_detector("retinanet", seed=1).eval(),
    }
    with pytest.raises(WrongUse, match="at least 5 batches"):
        costs_of(models, number=8)
