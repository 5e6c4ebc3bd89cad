"""The metrics: of each image with its truth, of label maps, and of two sets of images by their features.

Images and labels go in as they are stored.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from scadm.faces import LABELS, NUM_CLASSES
from scadm.pixels import Images, Labels, as_tensor, to_unit


def ssim(images: Images, truth: Images) -> NDArray[np.float64]:
    """Structural similarity of each image (B, H, W, 3) with its truth: (B,), 1 for equal ones.

    The library's default: Gaussian window of 11 and sigma 1.5 on each channel in [0, 1], borders mirrored and counted.
    """
    values = structural_similarity_index_measure(to_unit(images), to_unit(truth), data_range=1.0, reduction="none")
    return np.atleast_1d(torch.as_tensor(values).double().numpy())


def psnr(images: Images, truth: Images) -> NDArray[np.float64]:
    """Peak signal to noise ratio of each image (B, H, W, 3) in decibels: (B,), infinite for equal ones."""
    values = peak_signal_noise_ratio(
        to_unit(images).double(), to_unit(truth).double(), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return np.atleast_1d(values.numpy())


def confusion_matrix(labels: Labels, truth: Labels) -> NDArray[np.int64]:
    """Pixels by true class (row) and found class (column): (19, 19), from two label maps (B, H, W)."""
    return multiclass_confusion_matrix(
        as_tensor(labels).long(), as_tensor(truth).long(), num_classes=NUM_CLASSES
    ).numpy()


def confusion_matrices(labels: Labels, truth: Labels) -> NDArray[np.int64]:
    """`confusion_matrix` of each image: (B, 19, 19)."""
    return np.stack([confusion_matrix(*maps) for maps in zip(labels, truth, strict=True)])


def class_iou(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Intersection over union of each class that the truth shows, by name."""
    found = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - found
    present = confusion.sum(axis=1) > 0
    return {LABELS[k]: float(found[k] / union[k]) for k in range(NUM_CLASSES) if present[k]}


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean of `class_iou`. Raises ValueError if the truth shows no class at all."""
    _require_pixels(confusion)
    return float(np.mean(list(class_iou(confusion).values())))


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of pixels whose class was found. Raises ValueError if there is no pixel."""
    _require_pixels(confusion)
    return float(np.trace(confusion) / confusion.sum())


class _Given(nn.Module):
    """Features in the place of the images that torchmetrics would take them from."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(features: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Squared Frechet distance of two Gaussians fitted to features (N, F) and (M, F) (Heusel et al. 2017).

    Raises ValueError with fewer than two images on a side.
    """
    _require_two(features, truth)
    metric = FrechetInceptionDistance(feature=_Given(features.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(features.astype(np.float64)), real=False)
    metric.update(torch.from_numpy(truth.astype(np.float64)), real=True)
    return max(float(metric.compute()), 0.0)  # of equal features rounding leaves some -1e-7


SUBSETS, SUBSET_SIZE = 50, 1000
"""Of the kernel distance: so many random halves of the images, of at most so many."""


def kernel_distance(features: NDArray[np.floating], truth: NDArray[np.floating]) -> tuple[float, float]:
    """Squared maximum mean discrepancy of features (N, F) and (M, F) with a cubic kernel (Binkowski et al. 2018).

    Unbiased, unlike the Frechet distance, whatever the number of images; so it may be below 0. Its mean over random
    subsets, and its standard deviation among them. Raises ValueError with fewer than two images on a side; of two or
    three on a side it is NaN, as the half of them is one.
    """
    _require_two(features, truth)
    size = min(len(features), len(truth), 2 * SUBSET_SIZE) // 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save all extracted features.*")
        metric = KernelInceptionDistance(_Given(features.shape[1]), subsets=SUBSETS, subset_size=size)
    metric.update(torch.from_numpy(features.astype(np.float64)), real=False)
    metric.update(torch.from_numpy(truth.astype(np.float64)), real=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of its subsets
        middle, spread = metric.compute()
    return float(middle), float(spread)


def masked_mean_abs_change(before: Images, after: Images, region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean |change| of images (B, H, W, 3) inside a region (B, H, W) of each: (B,), in [0, 1].

    Raises ValueError for a face whose region is empty: there the mean does not exist.
    """
    pixels = region.sum(axis=(1, 2))
    if not pixels.all():
        empty = np.flatnonzero(pixels == 0).tolist()
        raise ValueError(
            f"the region is empty in images {empty} of {len(pixels)}, expected at least one pixel: a change has no "
            "mean there. Leave out the faces that lack the part."
        )
    change = np.abs(after.astype(np.int16) - before).mean(axis=3) / 255  # (B, H, W)
    return (change * region).sum(axis=(1, 2)) / pixels


def share(value: float, floor: float, ceiling: float) -> float | None:
    """How far `value` is on the way from `floor` (0) to `ceiling` (1); below 0 or above 1 where it lies outside.

    None where the ceiling is not above the floor: then there is no way to measure along.
    """
    return (value - floor) / (ceiling - floor) if ceiling > floor else None


def _require_pixels(confusion: NDArray[np.int64]) -> None:
    if not confusion.sum():
        raise ValueError(
            "the masks hold no pixel, expected at least one class present: neither IoU nor accuracy exists. Check "
            "that the test split is not empty."
        )


def _require_two(features: NDArray[np.floating], truth: NDArray[np.floating]) -> None:
    if min(len(features), len(truth)) < 2:
        raise ValueError(
            f"a distance of sets was asked for {len(features)} images against {len(truth)}, expected at least 2 on "
            "each side: one image has no spread. Raise evaluation.samples, or data.split.test."
        )
