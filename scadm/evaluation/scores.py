"""Scores of pictures: what the networks read in them, and how like the real ones they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scadm.evaluation import metrics
from scadm.evaluation.bootstrap import BOUNDS, resamples
from scadm.evaluation.fixed import in_chunks
from scadm.evaluation.measure import Measure, mean
from scadm.evaluation.networks import Networks, load_networks
from scadm.evaluation.parsers import Parser, load_parser
from scadm.evaluation.sheet import Sheet
from scadm.pixels import Images, Labels


@dataclass(frozen=True)
class ReadSheet(Sheet):
    """What the networks read in the pictures of N masks."""

    confusion: NDArray[np.int64]
    """(N, 19, 19): pixels by class of the mask and class that the parser sees."""
    features: Mapping[str, NDArray[np.float32]]
    """{network: (N, F)}."""

    @cached_property
    def total(self) -> NDArray[np.int64]:
        """Confusion over all faces (19, 19)."""
        return self.confusion.sum(axis=0)

    def obedience(self) -> dict[str, Measure]:
        """miou and accuracy: how far the pictures follow the masks, as the parser sees them."""
        counts = np.einsum("rn, nij -> rij", resamples(len(self)).astype(np.float64), self.confusion, optimize=True)
        found = np.einsum("rkk -> rk", counts)
        truth = counts.sum(axis=2)
        # A class that a resample lacks, or that no mask shows at all, is left out of the mean, as in `class_iou`.
        iou = found / np.where(truth > 0, truth + counts.sum(axis=1) - found, np.nan)
        return {
            "miou": Measure(metrics.mean_iou(self.total), *_ends(np.nanmean(iou, axis=1))),
            "accuracy": Measure(metrics.pixel_accuracy(self.total), *_ends(found.sum(axis=1) / truth.sum(axis=1))),
        }

    def distances(self, truth: "ReadSheet") -> dict[str, Measure]:
        """frechet_<network>, kernel_<network> and its error, to the features of the real pictures."""
        found = {}
        for name, features in self.features.items():
            found[f"frechet_{name}"] = Measure(metrics.frechet_distance(features, truth.features[name]))
            if min(len(self), len(truth)) >= 4:
                middle, spread = metrics.kernel_distance(features, truth.features[name])
                found |= {f"kernel_{name}": Measure(middle), f"kernel_{name}_std": Measure(spread)}
        return found


@dataclass(frozen=True)
class ScoreSheet(ReadSheet):
    """Also compared with the real pictures of the same faces, pixel by pixel."""

    ssim: NDArray[np.float64]
    """(N,)"""
    psnr: NDArray[np.float64]
    """(N,), infinite of a picture that equals the real one."""
    perceptual: Mapping[str, NDArray[np.float64]]
    """{network: (N,)}: LPIPS, where its weights are there."""

    def likeness(self) -> dict[str, Measure]:
        """ssim, psnr and LPIPS. There is no psnr where a picture equals the real one bit for bit."""
        found = {"ssim": mean(self.ssim)}
        if np.isfinite(self.psnr).all():
            found["psnr"] = mean(self.psnr)
        return found | {name: mean(values) for name, values in self.perceptual.items()}

    def by_face(self) -> dict[str, NDArray[np.float64]]:
        """Each face's own ssim, psnr, LPIPS, miou and accuracy: (N,) each."""
        return {
            "ssim": self.ssim,
            "psnr": self.psnr,
            **self.perceptual,
            "miou": np.array([metrics.mean_iou(confusion) for confusion in self.confusion]),
            "accuracy": np.array([metrics.pixel_accuracy(confusion) for confusion in self.confusion]),
        }


@dataclass(frozen=True)
class Judges:
    """All that looks at pictures: a parser, and the published networks whose weights are there."""

    parser: Parser
    networks: Networks

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Judges":
        """What the stage `parser` has written."""
        return cls(load_parser(folder, device), load_networks(folder, device))

    def read(self, positions: Sequence[int], images: Images, labels: Labels) -> ReadSheet:
        """What is seen in images (B, H, W, 3) of masks (B, H, W)."""
        return ReadSheet(**self._read(positions, images, labels))

    def score(self, positions: Sequence[int], images: Images, labels: Labels, truth: Images) -> ScoreSheet:
        """The same, and the likeness to the real images (B, H, W, 3)."""
        if images.shape != truth.shape:
            raise ValueError(
                f"the pictures are {images.shape}, expected {truth.shape} like the real ones: they cannot be compared "
                "pixel by pixel. Make them of the same faces at the same resolution."
            )
        return ScoreSheet(
            **self._read(positions, images, labels),
            ssim=metrics.ssim(images, truth),
            psnr=metrics.psnr(images, truth),
            perceptual=self.apart(images, truth),
        )

    def apart(self, images: Images, others: Images) -> dict[str, NDArray[np.float64]]:
        """{network: LPIPS of each pair (B,)}, where its weights are there."""
        lpips = self.networks.lpips
        return {} if lpips is None else {lpips.name: in_chunks(lpips.distance, images, others)}

    def _read(self, positions: Sequence[int], images: Images, labels: Labels) -> dict[str, Any]:
        seen, features = in_chunks(self.parser.read, images)
        inception = self.networks.inception
        more = {} if inception is None else {inception.name: in_chunks(inception.features, images)}
        return {
            "positions": np.asarray(positions, dtype=np.int64),
            "confusion": metrics.confusion_matrices(seen, labels),
            "features": {self.parser.name: features, **more},
        }


def _ends(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(resampled, BOUNDS)
    return float(low), float(high)
