"""Every distance of maps and responses against its formula, written a second time in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detkds.distillers import MAP_DISTANCES, SCORE_DISTANCES
from detkds.distillers.distances import pearson_hw as map_pearson_hw
from detkds.distillers.scores import quality_focal
from detkds.space.options import CROSS_LOCALIZATION_DISTANCES, EXTENDED, LOCALIZATION_DISTANCES
from numpy.typing import NDArray
from scipy.spatial.distance import correlation as scipy_correlation
from scipy.spatial.distance import cosine as scipy_cosine
from scipy.spatial.distance import jensenshannon
from scipy.special import huber, softmax
from scipy.stats import entropy, zscore
from torch import Tensor
from torch.autograd import gradcheck
from vectors import score_distance

Array = NDArray[np.float64]
#: Every distance of maps and every distance of class scores.
DISTANCES = {
    **MAP_DISTANCES,
    "pearson_hw": map_pearson_hw,
    **{f"{name} of scores": score_distance(name) for name in SCORE_DISTANCES},
}
SYMMETRIC = (
    *("l1", "l2", "smooth_l1", "jensen_shannon", "cosine"),
    *("pearson", "pearson_hw", "correlation"),
)

MAPS = [(2, 3, 8, 8), (1, 3, 13, 7), (3, 1, 5, 4), (2, 4, 3, 1), (4, 3, 1, 1)]
RESPONSES = [(2, 4, 15), (1, 4, 7), (3, 1, 5), (6, 20, 1)]


def channels(f: Array) -> Array:
    """(C, observations)."""
    return np.array([f[:, c].ravel() for c in range(f.shape[1])])


def positions(f: Array) -> Array:
    """(observations, C)."""
    return channels(f).T


def kl(s: Array, t: Array) -> float:
    """Appendix D: Σ P log(P / Q), with the teacher's P; a softmax over channels gives both."""
    return entropy(softmax(positions(t), axis=1), softmax(positions(s), axis=1), axis=1).mean()


def kl_hw(s: Array, t: Array) -> float:
    """CWD: each channel of each image is a distribution over positions."""
    n, c = s.shape[:2]
    rows = [softmax(side.reshape(n * c, -1), axis=1) for side in (t, s)]
    return entropy(*rows, axis=1).mean()


def js(s: Array, t: Array) -> float:
    """SSSD: the root of the divergence's mean over positions; scipy gives each position's root."""
    roots = []
    for image, other in zip(s, t, strict=True):
        sides = (softmax(positions(side[None]), axis=1) for side in (image, other))
        squares = [jensenshannon(p, q) ** 2 for p, q in zip(*sides, strict=True)]
        roots.append(np.sqrt(np.mean(squares)))
    return float(np.mean(roots))


def cosine(s: Array, t: Array) -> float:
    pairs = zip(positions(s), positions(t), strict=True)
    return float(np.mean([scipy_cosine(a, b) for a, b in pairs]))


def pearson(s: Array, t: Array) -> float:
    pairs = zip(channels(s), channels(t), strict=True)
    return float(np.mean([scipy_correlation(a, b) for a, b in pairs]))


def pearson_c(s: Array, t: Array) -> float:
    """Appendix D: over the classes i of a position."""
    pairs = zip(positions(s), positions(t), strict=True)
    return float(np.mean([scipy_correlation(a, b) if len(a) > 1 else 0 for a, b in pairs]))


def pearson_hw(s: Array, t: Array) -> float:
    images = zip(s, t, strict=True)
    return float(np.mean([pearson(a[None], b[None]) if a[0].size > 1 else 0 for a, b in images]))


def cross_correlation(s: Array, t: Array) -> float:
    """Formula (11) on C = PᵀQ / n of an image's standardised P and Q, with 1 added to the sum."""
    losses = []
    for image, other in zip(s, t, strict=True):
        if image[0].size == 1:
            losses.append(0.0)
            continue
        p, q = (zscore(positions(side[None])) for side in (image, other))
        diagonal = np.diag(p.T @ q / len(p))
        losses.append(np.log2(1 + np.sum(np.abs(diagonal - 1) ** (2 * 1.01))))
    return float(np.mean(losses))


def ssim(s: Array, t: Array) -> float:
    """(1 - SSIM) / 2 pixel by pixel; an 11 x 11 Gaussian of σ 1.5, cut off at the border."""
    height, width = s.shape[2:]
    rows, columns = np.mgrid[:height, :width]
    losses = []
    ranges = np.repeat([image.max() - image.min() for image in t], t.shape[1])
    maps = (side.reshape(-1, height, width) for side in (s, t))
    for a, b, range_ in zip(*maps, ranges, strict=True):
        c1, c2 = ((k * max(range_, 0.01)) ** 2 for k in (0.01, 0.03))
        for y, x in np.ndindex(height, width):
            far = np.maximum(np.abs(rows - y), np.abs(columns - x)) > 5
            weight = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 1.5**2))
            weight = np.where(far, 0, weight) / np.where(far, 0, weight).sum()
            mu_a, mu_b = (weight * a).sum(), (weight * b).sum()
            var_a, var_b = (weight * (a - mu_a) ** 2).sum(), (weight * (b - mu_b) ** 2).sum()
            covariance = (weight * (a - mu_a) * (b - mu_b)).sum()
            luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
            losses.append((1 - luminance * (2 * covariance + c2) / (var_a + var_b + c2)) / 2)
    return float(np.mean(losses))


MAP_FORMULAS: dict[str, Callable[[Array, Array], float]] = {
    "l1": lambda s, t: np.abs(s - t).mean(),
    "l2": lambda s, t: ((s - t) ** 2).mean(),
    "smooth_l1": lambda s, t: huber(1, s - t).mean(),
    "kl": kl,
    "kl_hw": kl_hw,
    "jensen_shannon": js,
    "cosine": cosine,
    "pearson": pearson,
    "pearson_hw": pearson_hw,
    "ssim": ssim,
}
SCORE_FORMULAS = {
    **{name: MAP_FORMULAS.get(name) for name in SCORE_DISTANCES},
    "pearson": pearson_c,
    "correlation": cross_correlation,
}
FORMULAS = {**MAP_FORMULAS, **{f"{name} of scores": f for name, f in SCORE_FORMULAS.items()}}


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Student and teacher: related, with different means and spreads."""
    generator = np.random.default_rng([seed, *shape])
    teacher = generator.normal(1, 2, shape)
    student = 0.5 * teacher + generator.normal(-0.3, 1, shape)
    return torch.tensor(student), torch.tensor(teacher)


def shapes_of(name: str) -> list[tuple[int, ...]]:
    return MAPS if name in ("ssim", "kl_hw") else MAPS + RESPONSES


CASES = [
    pytest.param(name, shape, id=f"{name}-{shape}")
    for name in FORMULAS
    for shape in shapes_of(name)
]


def test_every_option_of_the_space_is_there() -> None:
    space = {name for options in EXTENDED.values() for name in options.distances}
    apart = {*LOCALIZATION_DISTANCES, *CROSS_LOCALIZATION_DISTANCES, "quality_focal"} - {"kl"}
    assert {*MAP_DISTANCES, *SCORE_DISTANCES} == space - apart
    assert set(DISTANCES) == set(FORMULAS)


def test_quality_focal_is_formula_7() -> None:
    student, teacher = pair((2, 3, 8))
    score, soft = (1 / (1 + np.exp(-side.numpy())) for side in (student, teacher))
    bce = -(soft * np.log(score) + (1 - soft) * np.log(1 - score))
    np.testing.assert_allclose(quality_focal(student, teacher), np.abs(score - soft) * bce)
    assert not quality_focal(teacher, teacher).any()
    assert gradcheck(lambda s: quality_focal(s, teacher), student.requires_grad_())


def test_the_jensen_shannon_distance_is_bounded() -> None:
    """The bound is sqrt(ln 2); distributions without overlap reach the bound."""
    apart = torch.tensor([[100.0, 0.0]]).double().view(1, 2, 1)
    other = apart.flip(1)
    np.testing.assert_allclose(DISTANCES["jensen_shannon"](apart, other), np.sqrt(np.log(2)))
    agreed = apart.clone().requires_grad_()
    DISTANCES["jensen_shannon"](agreed, apart).backward()
    assert not agreed.grad.isnan().any()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_distance_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)
    found = DISTANCES[name](student, teacher)
    assert found.shape == ()
    # Three classes may be almost equal, which the epsilon of a variance makes more alike.
    near = 2e-3 if name == "pearson of scores" else 2e-5
    assert found.item() == pytest.approx(FORMULAS[name](student.numpy(), teacher.numpy()), abs=near)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_it_is_0_where_both_agree_and_never_below(name: str, shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)
    assert DISTANCES[name](teacher, teacher).item() == pytest.approx(0, abs=1e-9)
    for seed in range(5):
        for ours, theirs in (pair(shape, seed), (-teacher, teacher), (100 * student, teacher)):
            assert DISTANCES[name](ours, theirs).item() >= -1e-12


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_symmetric_or_not(name: str) -> None:
    student, teacher = pair((2, 3, 8, 8))
    one, other = DISTANCES[name](student, teacher), DISTANCES[name](teacher, student)
    assert bool(torch.isclose(one, other, rtol=1e-6)) == (
        name.removesuffix(" of scores") in SYMMETRIC
    )


@pytest.mark.parametrize("name", ["cosine", "pearson"])
def test_opposites_are_the_farthest(name: str) -> None:
    student, teacher = pair((2, 3, 9, 6))
    opposite = DISTANCES[name](-(teacher - teacher.mean()), teacher - teacher.mean())
    assert DISTANCES[name](student, teacher) < opposite <= 2 + 1e-9


def test_ssim_is_1_at_most() -> None:
    for seed in range(5):
        student, teacher = pair((2, 3, 9, 6), seed)
        for ours in (student, -student, student - 50, 100 * student):
            assert 0 < DISTANCES["ssim"](ours, teacher) < 1


@pytest.mark.parametrize("shape", [(2, 3, 9, 6), (4, 3, 1, 1), (2, 5, 11)], ids=str)
def test_pearson_is_pkd(shape: tuple[int, ...]) -> None:
    """PKD: half the mean squared difference of maps standardised channel by channel."""
    student, teacher = pair(shape)
    sides = [zscore(channels(side.numpy()), axis=1) for side in (student, teacher)]
    expected = ((sides[0] - sides[1]) ** 2).mean() / 2
    assert DISTANCES["pearson"](student, teacher).item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", ["pearson", "pearson_hw", "correlation of scores"])
def test_correlations_do_not_see_a_channels_scale_and_shift(name: str) -> None:
    _, teacher = pair((2, 3, 9, 6))
    gain = torch.tensor([2.0, 30, 0.5]).view(1, 3, 1, 1)
    assert DISTANCES[name](gain * teacher - 7, teacher).item() == pytest.approx(0, abs=1e-5)


def test_correlation_of_a_perfect_match_has_a_gradient() -> None:
    """Where both agree, formula (11) as printed is log2 of 0."""
    _, teacher = pair((2, 3, 4, 4))
    student = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(DISTANCES["correlation of scores"](student, teacher), student)
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (4, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_gradients(name: str, shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)

    def distance(ours: Tensor) -> Tensor:
        return DISTANCES[name](ours, teacher)

    assert torch.autograd.gradcheck(distance, student.requires_grad_())


@pytest.mark.parametrize("name", FORMULAS)
def test_what_has_no_weight_does_not_count(name: str) -> None:
    """Padding of any value, also in one image alone, changes neither distance nor gradient."""
    student, teacher = pair((2, 3, 6, 5))
    if name == "ssim":
        return  # a window near the padding sees the padding
    weight = torch.ones(2, 1, 6, 5)
    weight[1, :, 4:], weight[:, :, :, 3:] = 0, 0
    for padding in (0.0, 1e4, torch.inf):
        ours = torch.where(weight > 0, student, padding).requires_grad_()
        theirs = torch.where(weight > 0, teacher, -padding)
        found = DISTANCES[name](ours, theirs, weight)
        (gradient,) = torch.autograd.grad(found, ours)
        assert not gradient[weight.expand_as(gradient) == 0].any()
        if not padding:
            expected, slopes = found, gradient
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient, slopes)


@pytest.mark.parametrize("name", FORMULAS)
def test_weights_of_1_are_no_weights(name: str) -> None:
    student, teacher = pair((2, 3, 6, 5))
    found = DISTANCES[name](student, teacher, torch.ones(2, 1, 6, 5).double())
    torch.testing.assert_close(found, DISTANCES[name](student, teacher))


@pytest.mark.parametrize("name", FORMULAS)
def test_a_crop_is_compared_by_weights(name: str) -> None:
    """With weights 0 outside of a window, the distance is that of the window, cut out."""
    if name == "ssim":
        return
    student, teacher = pair((2, 3, 6, 5))
    weight = torch.zeros(2, 1, 6, 5)
    weight[:, :, 1:4, 2:] = 1
    found = DISTANCES[name](student, teacher, weight)
    cut = DISTANCES[name](student[:, :, 1:4, 2:], teacher[:, :, 1:4, 2:])
    torch.testing.assert_close(found, cut)


CONSTANTS = [(0.0, 0.0), (3.0, 3.0), (3.0, 5.0), (7.3, 5.0), (0.1, 1000.1), (0.0, 3.0), (3.0, 0.0)]


@pytest.mark.parametrize(("ours", "theirs"), CONSTANTS)
@pytest.mark.parametrize("name", FORMULAS)
def test_constant_inputs_give_a_finite_distance(name: str, ours: float, theirs: float) -> None:
    """In single precision, where differences of equal numbers leave rounding errors."""
    for shape in ((2, 3, 13, 7), (1, 1, 1, 1)):
        student = torch.full(shape, ours, requires_grad=True)
        distance = DISTANCES[name](student, torch.full(shape, theirs))
        (gradient,) = torch.autograd.grad(distance, student)
        assert torch.isfinite(gradient).all()
        assert distance >= -1e-6
        if name.startswith(("cosine", "ssim", "pearson")):
            assert distance <= 2
        if ours == theirs:
            assert distance.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_ssim_in_single_precision_is_ssim(offset: float) -> None:
    student, teacher = (side + offset for side in pair((1, 2, 9, 7)))
    found = DISTANCES["ssim"](student.float(), teacher.float())
    assert found.item() == pytest.approx(ssim(student.numpy(), teacher.numpy()), abs=1e-3)
