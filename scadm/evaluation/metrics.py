"""What is measured of reconstructed faces, and how partial results of many workers become one.

Images and labels go in as they are stored. Everything is kept by image until the end and put in the order of the
test split, so that no number depends on how the images were batched or who measured them (beyond the last digits
of float32 in a network or a filter).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from scadm.evaluation.parsers import Parser
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


def frechet_distance(features: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Squared Frechet distance of two Gaussians fitted to features (N, F) and (M, F).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). The trace of the last root is the sum of the singular values of
    S1^(1/2) S2^(1/2), which exists also where a covariance is singular, as it is with fewer images than features.
    Raises ValueError with fewer than two images on a side.
    """
    if min(len(features), len(truth)) < 2:
        raise ValueError(
            f"a Frechet distance was asked for {len(features)} images against {len(truth)}, expected at least 2 on "
            "each side: one image has no covariance. Raise evaluation.samples, or data.split.test."
        )
    mean_gap = features.mean(axis=0, dtype=np.float64) - truth.mean(axis=0, dtype=np.float64)
    root, truth_root = _covariance_root(features), _covariance_root(truth)
    cross = np.linalg.svd(root @ truth_root, compute_uv=False).sum()
    distance = mean_gap @ mean_gap + (root**2).sum() + (truth_root**2).sum() - 2 * cross
    return max(float(distance), 0.0)  # of equal features rounding leaves some -1e-12


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


@dataclass(frozen=True)
class ScoreSheet:
    """What was measured of one row of the table, image by image. Sheets of disjoint images merge."""

    parser: str
    """Name of the parser."""
    positions: NDArray[np.int64]
    """Position of each image in the test split (N,)."""
    ssim: NDArray[np.float64]
    """(N,)"""
    psnr: NDArray[np.float64]
    """(N,)"""
    confusion: NDArray[np.int64]
    """(19, 19), summed over the images."""
    features: NDArray[np.float32]
    """(N, F) of the row's images."""
    truth_features: NDArray[np.float32]
    """(N, F) of the real images."""
    truth_confusion: NDArray[np.int64]
    """(19, 19), of what the parser reads in the real images: how far it can be trusted."""

    def class_iou(self) -> dict[str, float]:
        """See `class_iou`."""
        return class_iou(self.confusion)

    def truth_summary(self) -> dict[str, float]:
        """miou and accuracy of the parser on the real images."""
        return {"miou": mean_iou(self.truth_confusion), "accuracy": pixel_accuracy(self.truth_confusion)}

    def summary(self) -> dict[str, float]:
        """The row's metrics: ssim, psnr, miou, accuracy, and frechet_<parser>.

        Raises ValueError if a picture equals its truth bit for bit, or with fewer than two images.
        """
        same = self.positions[np.isinf(self.psnr)]
        if len(same):
            raise ValueError(
                f"the pictures at test positions {same.tolist()} equal the real ones bit for bit, expected some "
                "difference: the real images were probably compared with themselves, and the mean PSNR would be "
                "infinite. Check what the row was made from."
            )
        return {
            "ssim": float(self.ssim.mean()),
            "psnr": float(self.psnr.mean()),
            "miou": mean_iou(self.confusion),
            "accuracy": pixel_accuracy(self.confusion),
            f"frechet_{self.parser}": frechet_distance(self.features, self.truth_features),
        }


def score(
    parser: Parser, positions: Sequence[int], truth: Images, labels: Labels, rows: Mapping[str, Images]
) -> dict[str, ScoreSheet]:
    """Measure every row's images against the same B real ones.

    `positions` are theirs in the test split, `truth` (B, H, W, 3) the real images, `labels` (B, H, W) the masks
    that the rows were made from; each row holds images (B, H, W, 3).
    """
    read = parser.read(truth)
    truth_confusion = confusion_matrix(read.labels, labels)
    sheets = {}
    for name, images in rows.items():
        if images.shape != truth.shape:
            raise ValueError(
                f"the row {name} has images {images.shape}, expected {truth.shape} like the real ones: they cannot "
                "be compared pixel by pixel. Make the row from the same faces at the same resolution."
            )
        reading = parser.read(images)
        sheets[name] = ScoreSheet(
            parser=parser.name,
            positions=np.asarray(positions, dtype=np.int64),
            ssim=ssim(images, truth),
            psnr=psnr(images, truth),
            confusion=confusion_matrix(reading.labels, labels),
            features=reading.features,
            truth_features=read.features,
            truth_confusion=truth_confusion,
        )
    return sheets


def merge(sheets: Sequence[ScoreSheet], expected: int) -> ScoreSheet:
    """One sheet of `expected` images, positions 0 to expected - 1, from sheets of some of them in any order.

    Raises ValueError if an image is missing or was measured twice, or the sheets are of different parsers.
    """
    parsers = {sheet.parser for sheet in sheets}
    positions = np.concatenate([np.empty(0, dtype=np.int64), *(sheet.positions for sheet in sheets)])
    missing = sorted(set(range(expected)) - set(positions.tolist()))
    if missing or len(positions) != expected or len(parsers) != 1:
        values, counts = np.unique(positions, return_counts=True)
        raise ValueError(
            f"{len(positions)} images were measured by parsers {sorted(parsers)}, expected {expected} by one; missing "
            f"positions {missing}, measured twice {values[counts > 1].tolist()}. A mean over them would be of other "
            "faces than it claims: run the evaluation again."
        )
    order = np.argsort(positions)
    return ScoreSheet(
        parser=parsers.pop(),
        positions=positions[order],
        ssim=np.concatenate([sheet.ssim for sheet in sheets])[order],
        psnr=np.concatenate([sheet.psnr for sheet in sheets])[order],
        confusion=np.sum([sheet.confusion for sheet in sheets], axis=0),
        features=np.concatenate([sheet.features for sheet in sheets])[order],
        truth_features=np.concatenate([sheet.truth_features for sheet in sheets])[order],
        truth_confusion=np.sum([sheet.truth_confusion for sheet in sheets], axis=0),
    )


def _require_pixels(confusion: NDArray[np.int64]) -> None:
    if not confusion.sum():
        raise ValueError(
            "the masks hold no pixel, expected at least one class present: neither IoU nor accuracy exists. Check "
            "that the test split is not empty."
        )


def _covariance_root(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """The symmetric root (F, F) of the features' (N, F) covariance."""
    covariance = np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False))
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
