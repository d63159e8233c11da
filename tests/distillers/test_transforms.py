"""Every transform against its formula, written a second time in numpy from the paper."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from detkds.distillers import FEATURE_TRANSFORMS, RESHAPES, RESPONSE_TRANSFORMS
from detkds.space import Term
from detkds.space.options import (
    ATTENTION,
    LOCALIZATION_TRANSFORMS,
    LOGITS_TRANSFORMS,
    NORMALISE,
    SCALE,
)
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor
from vectors import transformed_responses

Array = NDArray[np.float64]
TEMPERATURE = 0.5

#: Even and odd sizes, one image, one channel, maps smaller than any window, a single number.
MAPS = [(2, 3, 8, 8), (1, 3, 7, 5), (3, 1, 9, 4), (2, 4, 3, 2), (2, 4, 1, 1), (1, 1, 1, 1)]
RESPONSES = [(2, 4, 15), (1, 4, 7), (3, 1, 5), (2, 4, 1), (1, 1, 1)]


def catt(f: Array) -> Array:
    """Formulas (4) and (9): C · ψ(mean over HW of |f| / τ) · f."""
    out = np.empty_like(f)
    for n, image in enumerate(f):
        attention = len(image) * softmax(np.abs(image).mean(axis=(1, 2)) / TEMPERATURE)
        for c, channel in enumerate(image):
            out[n, c] = attention[c] * channel
    return out


def satt(f: Array) -> Array:
    """Formulas (4) and (9): HW · ψ(mean over C of |f| / τ) · f."""
    out = np.empty_like(f)
    for n, image in enumerate(f):
        out[n] = image * image[0].size * softmax(np.abs(image).mean(axis=0) / TEMPERATURE)
    return out


def scale(f: Array, n: int) -> Array:
    """Formula (5): the greatest of each n x n window; windows at the border may be partial."""
    rows, columns = range(0, f.shape[2], n), range(0, f.shape[3], n)
    pooled = [[f[:, :, y : y + n, x : x + n].max(axis=(2, 3)) for x in columns] for y in rows]
    return np.array(pooled).transpose(2, 3, 0, 1)


def local(f: Array, n: int) -> Array:
    """Formula (5): the map, padded with zeros, cut into n x n pieces, each a sample."""
    height, width = (-(-size // n) for size in f.shape[2:])
    filled = np.zeros((*f.shape[:2], n * height, n * width))
    filled[:, :, : f.shape[2], : f.shape[3]] = f
    pieces = [
        image[:, y * height : (y + 1) * height, x * width : (x + 1) * width]
        for image in filled
        for y, x in product(range(n), range(n))
    ]
    return np.stack(pieces)


def norm(f: Array, axis: int | tuple[int, ...]) -> Array:
    """Formula (6): (f - μ) / σ. 1e-6 is added to the variance, so that a constant becomes 0."""
    return (f - f.mean(axis=axis, keepdims=True)) / np.sqrt(f.var(axis=axis, keepdims=True) + 1e-6)


def min_max(f: Array) -> Array:
    """Each sample is moved and scaled into [0, 1]; a constant sample becomes 0."""
    spans = [sample.max() - sample.min() for sample in f]
    return np.stack(
        [(x - x.min()) / span if span else x * 0 for x, span in zip(f, spans, strict=True)]
    )


FEATURE_FORMULAS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda f: f,
    "catt": catt,
    "satt": satt,
    "scale_2": lambda f: scale(f, 2),
    "scale_4": lambda f: scale(f, 4),
    "local_2": lambda f: local(f, 2),
    "local_4": lambda f: local(f, 4),
    "norm_hw": lambda f: norm(f, (2, 3)),
    "norm_c": lambda f: norm(f, 1),
    "norm_n": lambda f: norm(f, (1, 2, 3)),
    "min_max": min_max,
}
RESPONSE_FORMULAS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda p: p,
    "norm_n": lambda p: norm(p, 2),
    "norm_c": lambda p: norm(p, 1),
    "min_max": min_max,
    "softmax_n": lambda p: p.shape[2] * softmax(p, axis=2),
    "softmax_c": lambda p: softmax(p, axis=1),
    "pow2": lambda p: p**2,
    "sigmoid": expit,
}


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng([seed, *shape])
    student, teacher = generator.normal(0.3, 2, (2, *shape))
    return torch.tensor(student), torch.tensor(teacher)


def same_samples(found: Tensor, expected: Array) -> None:
    """Equal as sets of samples, since the paper gives the pieces no order."""
    rows = found.flatten(1).numpy(), expected.reshape(len(expected), -1)
    first, second = (np.array(sorted(row.tolist() for row in samples)) for samples in rows)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_every_option_of_the_space_is_there() -> None:
    assert set(FEATURE_TRANSFORMS) == {*ATTENTION, *SCALE, *NORMALISE}
    responses = {*RESPONSE_TRANSFORMS, *RESHAPES}
    assert responses == {*LOGITS_TRANSFORMS, *LOCALIZATION_TRANSFORMS}
    assert set(FEATURE_FORMULAS) == set(FEATURE_TRANSFORMS) - {"mask"}
    assert set(RESPONSE_FORMULAS) == set(RESPONSE_TRANSFORMS)


@pytest.mark.parametrize("shape", MAPS, ids=str)
@pytest.mark.parametrize(("alias", "formula"), [("scale_1", scale), ("local_1", local)])
def test_an_alias_applies_its_own_formula(
    alias: str, formula: Callable[[Array, int], Array], shape: tuple[int, ...]
) -> None:
    before = pair(shape)
    (name,) = {*Term("global", (alias,), "l1").applied}
    for found, side in zip(FEATURE_TRANSFORMS[name](*before), before, strict=True):
        np.testing.assert_array_equal(found, formula(side.numpy(), 1))


@pytest.mark.parametrize("shape", MAPS, ids=str)
@pytest.mark.parametrize("name", FEATURE_FORMULAS)
def test_a_feature_transform_is_its_formula_on_both_sides(
    name: str, shape: tuple[int, ...]
) -> None:
    before = pair(shape)
    after = FEATURE_TRANSFORMS[name](*(side.clone() for side in before))
    for found, side in zip(after, before, strict=True):
        expected = FEATURE_FORMULAS[name](side.numpy())
        assert found.shape == expected.shape
        if name.startswith("local"):
            same_samples(found, expected)
        else:
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def all_count(side: Tensor) -> Tensor:
    return torch.ones_like(side[:, :1], dtype=torch.bool)


@pytest.mark.parametrize("shape", RESPONSES, ids=str)
@pytest.mark.parametrize("name", RESPONSE_FORMULAS)
def test_a_response_transform_is_its_formula_on_both_sides(
    name: str, shape: tuple[int, ...]
) -> None:
    before = pair(shape)
    after = transformed_responses(name, *before, all_count(before[0]))
    for found, side in zip(after, before, strict=True):
        expected = RESPONSE_FORMULAS[name](side.numpy())
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", RESPONSE_FORMULAS)
def test_what_does_not_count_changes_no_response(name: str) -> None:
    """Predictions of any value in the padding leave the others as they are without the padding."""
    student, teacher = pair((2, 4, 7))
    expected = transformed_responses(name, student, teacher, all_count(student))
    padding = torch.tensor([1e4, -1e4, 3.0, torch.inf]).double().expand(2, 4, 4)
    padded = [torch.cat([side, padding], dim=2) for side in (student, teacher)]
    counted = torch.cat([all_count(student), torch.zeros(2, 1, 4, dtype=torch.bool)], dim=2)
    found = transformed_responses(name, *padded, counted)
    for side, without in zip(found, expected, strict=True):
        torch.testing.assert_close(side[:, :, :7], without, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOCALIZATION_TRANSFORMS[1:])
def test_localization_transforms_give_distances(name: str) -> None:
    student, teacher = pair((2, 4, 9))
    for side in transformed_responses(name, student, teacher, all_count(student)):
        assert (side >= 0).all()


def test_pieces_of_both_sides_stay_together() -> None:
    student, _ = pair((2, 3, 7, 6))
    for n in (2, 4):
        ours, theirs = FEATURE_TRANSFORMS[f"local_{n}"](student, 10 * student)
        torch.testing.assert_close(theirs, 10 * ours)


def test_catt_keeps_the_mean_factor_at_1() -> None:
    """Formula (9)'s factor C, not formula (4)'s HW."""
    found, _ = FEATURE_TRANSFORMS["catt"](torch.ones(2, 6, 5, 3), torch.ones(2, 6, 5, 3))
    torch.testing.assert_close(found, torch.ones(2, 6, 5, 3))


@pytest.mark.parametrize("shape", [(2, 3, 40, 50), (1, 1, 64, 64)], ids=str)
def test_mask_hides_the_same_positions_of_both(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    student, teacher = pair(shape)
    masked_student, masked_teacher = FEATURE_TRANSFORMS["mask"](student, teacher)
    hidden = masked_student == 0
    assert torch.equal(hidden, masked_teacher == 0)
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden)), "one mask for all channels"
    assert torch.equal(masked_student[~hidden], student[~hidden])
    assert torch.equal(masked_teacher[~hidden], teacher[~hidden])
    # 0.65 of 4000 positions, give or take four standard deviations
    assert abs(hidden[:, 0].double().mean().item() - 0.65) < 0.031


def test_mask_is_drawn_anew_for_every_image_and_call() -> None:
    torch.manual_seed(0)
    ones = torch.ones(2, 1, 16, 16)
    first, _ = FEATURE_TRANSFORMS["mask"](ones, ones)
    second, _ = FEATURE_TRANSFORMS["mask"](ones, ones)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("name", FEATURE_TRANSFORMS)
def test_feature_gradients(name: str, shape: tuple[int, ...]) -> None:
    def transform(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return FEATURE_TRANSFORMS[name](student, teacher)

    inputs = tuple(side.requires_grad_() for side in pair(shape))
    assert torch.autograd.gradcheck(transform, inputs)


@pytest.mark.parametrize("name", RESPONSE_FORMULAS)
def test_response_gradients(name: str) -> None:
    counted = torch.rand(2, 1, 5) < 0.8
    counted[:, :, 0] = True

    def transform(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return transformed_responses(name, student, teacher, counted)

    inputs = tuple(side.requires_grad_() for side in pair((2, 4, 5)))
    assert torch.autograd.gradcheck(transform, inputs)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
def test_constant_maps_stay_finite_with_their_gradients(value: float) -> None:
    def check(function: Callable[[Tensor, Tensor], tuple], shape: tuple[int, ...]) -> None:
        student = torch.full(shape, value, requires_grad=True)
        ours, theirs, *_ = function(student, torch.full(shape, value))
        assert torch.isfinite(ours).all()
        assert torch.isfinite(theirs).all()
        (gradient,) = torch.autograd.grad(ours.sum(), student)
        assert torch.isfinite(gradient).all()

    for transform in FEATURE_TRANSFORMS.values():
        check(transform, (2, 3, 5, 4))
    counted = torch.tensor([[True] * 5, [False] * 5]).unsqueeze(1)  # an image that does not count
    for name in RESPONSE_FORMULAS:
        check(lambda s, t, name=name: transformed_responses(name, s, t, counted), (2, 4, 5))


@pytest.mark.parametrize("name", FEATURE_TRANSFORMS)
def test_a_channels_last_map_gives_the_same(name: str) -> None:
    student, teacher = pair((2, 3, 8, 6))
    torch.manual_seed(0)
    expected = FEATURE_TRANSFORMS[name](student, teacher)
    torch.manual_seed(0)
    strided = (side.contiguous(memory_format=torch.channels_last) for side in (student, teacher))
    for found, side in zip(FEATURE_TRANSFORMS[name](*strided), expected, strict=True):
        torch.testing.assert_close(found, side)
