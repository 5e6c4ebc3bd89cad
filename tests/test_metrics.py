"""Metrics, each against an independent computation; and sheets that merge into the same numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.ndimage import correlate1d

from scadm import faces
from scadm.evaluation import metrics

seeds = st.integers(0, 2**32 - 1)


def pair(seed: int, shape: tuple[int, ...] = (3, 20, 24, 3)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 256, shape, dtype=np.uint8)
    noise = rng.integers(-60, 61, shape)
    return (truth + noise).clip(0, 255).astype(np.uint8), truth


def ssim_by_hand(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, mirrored borders that count, biased moments."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return correlate1d(correlate1d(x, window, axis=0, mode="mirror"), window, axis=1, mode="mirror")

    x, y = image / 255, truth / 255
    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(values.mean())


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_ssim_is_the_published_formula(seed: int) -> None:
    images, truth = pair(seed)
    found = metrics.ssim(images, truth)
    expected = [ssim_by_hand(a, b) for a, b in zip(images, truth, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_psnr_is_the_formula(seed: int) -> None:
    images, truth = pair(seed)
    error = ((images / 255 - truth / 255) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(metrics.psnr(images, truth), -10 * np.log10(error), rtol=1e-6)


def test_one_image_is_a_batch_too() -> None:
    images, truth = pair(0, (1, 16, 16, 3))
    assert metrics.ssim(images, truth).shape == metrics.psnr(images, truth).shape == (1,)
    assert metrics.ssim(truth, truth)[0] == pytest.approx(1)
    assert np.isinf(metrics.psnr(truth, truth)[0])


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 19))
def test_iou_and_accuracy_agree_with_scikit_learn(seed: int, classes: int) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (2, 5, 6), dtype=np.uint8)
    labels = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 19, truth.shape)).astype(np.uint8)
    confusion = metrics.confusion_matrix(labels, truth)
    present = np.unique(truth)
    expected = sklearn_metrics.jaccard_score(truth.ravel(), labels.ravel(), labels=present, average=None)
    assert list(metrics.class_iou(confusion)) == [faces.LABELS[k] for k in present]
    np.testing.assert_allclose(list(metrics.class_iou(confusion).values()), expected)
    assert metrics.mean_iou(confusion) == pytest.approx(expected.mean())
    assert metrics.pixel_accuracy(confusion) == pytest.approx((truth == labels).mean())


def test_a_class_that_only_the_parser_sees_lowers_the_others_and_has_no_iou() -> None:
    truth = np.zeros((1, 2, 2), dtype=np.uint8)
    labels = np.array([[[0, 0], [0, 14]]], dtype=np.uint8)
    assert metrics.class_iou(metrics.confusion_matrix(labels, truth)) == {"background": 0.75}


def test_no_pixel_has_neither_iou_nor_accuracy() -> None:
    nothing = np.zeros((19, 19), dtype=np.int64)
    for measure in (metrics.mean_iou, metrics.pixel_accuracy):
        with pytest.raises(ValueError, match="hold no pixel"):
            measure(nothing)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12))
def test_frechet_distance_is_the_formula_with_a_general_matrix_root(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, size)) @ rng.normal(size=(size, size))
    truth = rng.normal(1, 2, size=(50, size))
    gap = features.mean(0) - truth.mean(0)
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (features, truth))
    root = np.real(np.atleast_2d(sqrtm(c1 @ c2)))
    expected = gap @ gap + np.trace(c1 + c2 - 2 * root)
    assert metrics.frechet_distance(features, truth) == pytest.approx(expected, rel=1e-5)


@given(seeds)
def test_frechet_distance_of_few_images_is_finite_symmetric_and_zero_for_equal_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, truth = rng.normal(size=(4, 16)), rng.normal(size=(5, 16))
    distance = metrics.frechet_distance(features, truth)
    assert distance == pytest.approx(metrics.frechet_distance(truth, features))
    assert distance > 0
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-5)


def test_one_image_has_no_frechet_distance() -> None:
    with pytest.raises(ValueError, match="for 1 images against 3"):
        metrics.frechet_distance(np.zeros((1, 2)), np.zeros((3, 2)))


def test_kernel_distance_is_the_unbiased_mmd_of_random_halves() -> None:
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(60, 5)), rng.normal(0.3, 1, size=(70, 5))

    def mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        xx, yy, xy = ((a @ b.T / 5 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        m = len(x)
        return sum((k.sum() - np.trace(k)) / (m * (m - 1)) for k in (xx, yy)) - 2 * xy.mean()

    halves = [mmd(rng.permutation(features)[:30], rng.permutation(truth)[:30]) for _ in range(400)]
    middle, spread = metrics.kernel_distance(features, truth)
    assert middle == pytest.approx(np.mean(halves), abs=4 * np.std(halves) / metrics.SUBSETS**0.5)
    assert spread == pytest.approx(np.std(halves), rel=0.4)
    assert metrics.kernel_distance(features, truth) == (middle, spread), "the same subsets every time"


def test_kernel_distance_does_not_shrink_with_more_images() -> None:
    """Of one distribution it is about 0 for any number, where the Frechet distance grows as images get fewer."""
    rng = np.random.default_rng(1)
    for count in (20, 200):
        middle, spread = metrics.kernel_distance(rng.normal(size=(count, 8)), rng.normal(size=(count, 8)))
        assert abs(middle) < 3 * spread
    few, many = (metrics.frechet_distance(*rng.normal(size=(2, count, 8))) for count in (20, 200))
    assert few > 3 * many


def test_change_is_measured_inside_the_region_only() -> None:
    before = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    after = before.copy()
    after[0, :2] = 255
    after[1, 0, 0] = (51, 0, 0)
    region = np.zeros((2, 4, 4), dtype=bool)
    region[:, :2] = True
    np.testing.assert_allclose(metrics.masked_mean_abs_change(before, after, region), [1, 0.2 / 3 / 8])
    np.testing.assert_allclose(metrics.masked_mean_abs_change(before, after, ~region), [0, 0])
    np.testing.assert_allclose(metrics.masked_mean_abs_change(after, before, region), [1, 0.2 / 3 / 8])
    with pytest.raises(ValueError, match=r"empty in images \[1\] of 2"):
        metrics.masked_mean_abs_change(before, after, region & (np.arange(2) == 0)[:, None, None])


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(-2, 2))
def test_share_of_the_way(floor: float, way: float, part: float) -> None:
    assert metrics.share(floor + part * way, floor, floor + way) == pytest.approx(part, abs=1e-6)
    assert metrics.share(0.5, floor, floor - way) is None
    assert metrics.share(0.5, floor, floor) is None
