"""Is a part's style really taken from another face, and is nothing else changed? Measured with the hair.

Each test face that shows hair is reconstructed, and made once more with the hair's style of the next test face that
shows hair. Mask, noise and all other styles are the same, so that the two pictures differ by the hair's style only.

With c_face the mean colour of the hair in the reconstruction, c_out in the swap, and c_ref in the real reference (in
its own hair), and with sums over all pairs of faces:

    transfer = sum <c_out - c_face, c_ref - c_face> / sum |c_ref - c_face|^2     1: arrived; above 1: overshot
    arrival  = 1 - sum |c_out - c_ref| / sum |c_ref - c_face|                    at most 1; sees colour off the way too
    leakage  = sum of mean |change| outside the hair / sum of mean |change| inside     0: only the hair has changed

A ring about the hair's border counts as neither inside nor outside: a latent cell there shows both. A metric whose
denominator is 0 does not exist and is left out: leakage where no hair changed at all, the other two where no face's
colour differs from its reference's. Intervals are 95 % bootstrap intervals over the pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray

from scadm.evaluation.metrics import masked_mean_abs_change
from scadm.faces import CLASS_ID
from scadm.models.scadm import LATENT_FACTOR
from scadm.pixels import FaceSource, Images, Labels
from scadm.synthesis import Synthesiser

PART = "hair"
LEAST_SHARE = 0.01
"""Of a picture's pixels, for a face to show the part: a few stray ones have no style that one could see."""
RING = LATENT_FACTOR
"""Pixels on each side of the part's border that are neither inside nor outside."""
LEAST_PAIRS = 2
"""One pair has no interval."""
RESAMPLES = 2000


@dataclass(frozen=True)
class SwapSheet:
    """What was measured of N pairs, pair by pair. Sheets of disjoint faces merge."""

    positions: NDArray[np.int64]
    """Of each face in the test split (N,)."""
    inside: NDArray[np.float64]
    """Mean |change| well inside the part (N,), in [0, 1]."""
    outside: NDArray[np.float64]
    """Mean |change| well outside of it (N,), in [0, 1]."""
    went: NDArray[np.float64]
    """c_out - c_face (N, 3), RGB in [-1, 1]."""
    way: NDArray[np.float64]
    """c_ref - c_face (N, 3)."""

    def __len__(self) -> int:
        return len(self.positions)

    def summary(self) -> dict[str, float]:
        """transfer, arrival and leakage, with transfer_low and so on; empty with fewer than `LEAST_PAIRS` pairs."""
        if len(self) < LEAST_PAIRS:
            return {}
        missed, length = (np.linalg.norm(gap, axis=1) for gap in (self.went - self.way, self.way))
        return {
            **_pooled("transfer", (self.went * self.way).sum(axis=1), (self.way**2).sum(axis=1)),
            **({"arrival": float(1 - missed.sum() / length.sum())} if length.any() else {}),
            **_pooled("leakage", self.outside, self.inside),
        }


NO_PAIRS = SwapSheet(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty((0, 3)), np.empty((0, 3)))


def _pooled(name: str, parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> dict[str, float]:
    """sum(parts) / sum(wholes), both (N,) and by pair, and its interval; empty where the wholes are 0.

    A resample in which all wholes are 0 has no ratio and is left out.
    """
    if not wholes.any():
        return {}
    count = len(wholes)
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)  # (RESAMPLES, N)
    part, whole = times @ parts, times @ wholes
    low, high = np.percentile(part[whole > 0] / whole[whole > 0], [2.5, 97.5])
    return {name: float(parts.sum() / wholes.sum()), f"{name}_low": float(low), f"{name}_high": float(high)}


def shown(labels: Labels) -> NDArray[np.bool_]:
    """Which label maps (B, H, W) show the part, by `LEAST_SHARE` of their pixels at least: (B,)."""
    return (labels == CLASS_ID[PART]).mean(axis=(1, 2)) >= LEAST_SHARE


def regions(labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Well inside and well outside the part of label maps (B, H, W): what lies further than `RING` from its border."""
    part = labels == CLASS_ID[PART]
    return ~_grown(~part), ~_grown(part)


def _grown(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With all pixels that lie within `RING` of it, along rows, columns and diagonals."""
    pixels = rearrange(torch.from_numpy(region).float(), "b h w -> b 1 h w")
    grown = F.max_pool2d(pixels, 2 * RING + 1, stride=1, padding=RING)  # beyond the picture there is nothing
    return rearrange(grown > 0, "b 1 h w -> b h w").numpy()


def partner(source: FaceSource, position: int, count: int) -> int | None:
    """The next of the first `count` faces, cyclically, that shows the part; None where no other one does."""
    for other in ((position + step) % count for step in range(1, count)):
        if shown(source.batch([other])[1])[0]:
            return other
    return None


def score(
    positions: Sequence[int],
    before: Images,
    after: Images,
    labels: Labels,
    references: Images,
    reference_labels: Labels,
) -> SwapSheet:
    """Measure B swaps: reconstructions and swapped pictures (B, H, W, 3) of masks (B, H, W), and their references.

    Raises ValueError for a face that has nothing inside or nothing outside.
    """
    inside, outside = regions(labels)
    face = _mean_colour(before, labels)
    return SwapSheet(
        positions=np.asarray(positions, dtype=np.int64),
        inside=masked_mean_abs_change(before, after, inside),
        outside=masked_mean_abs_change(before, after, outside),
        went=_mean_colour(after, labels) - face,
        way=_mean_colour(references, reference_labels) - face,
    )


def _mean_colour(images: Images, labels: Labels) -> NDArray[np.float64]:
    """Of the part in each image: (B, 3), RGB in [0, 1]."""
    part = labels == CLASS_ID[PART]
    sums = (images * part[..., None]).sum(axis=(1, 2))  # of integers: exact
    return sums / part.sum(axis=(1, 2))[:, None] / 255


def swap(
    synthesiser: Synthesiser,
    source: FaceSource,
    positions: Sequence[int],
    images: Images,
    labels: Labels,
    before: Images,
    count: int,
) -> SwapSheet:
    """Swap the part of the faces at `positions` out of `count`, and measure what that changes.

    `before` (B, H, W, 3) are the reconstructions of the faces `images` and `labels`, with their positions as seeds. A
    face that does not show the part, has nothing inside or outside, or no partner, gives no pair.
    """
    inside, outside = regions(labels)
    able = shown(labels) & inside.any(axis=(1, 2)) & outside.any(axis=(1, 2))
    partners = {i: partner(source, positions[i], count) for i in np.flatnonzero(able).tolist()}
    pairs = {i: other for i, other in partners.items() if other is not None}
    if not pairs:
        return NO_PAIRS
    faces, seeds = list(pairs), [positions[i] for i in pairs]
    reference = source.batch(list(pairs.values()))
    after = synthesiser.swap(images[faces], labels[faces], *reference, [PART], seeds)
    return score(seeds, before[faces], after, labels[faces], *reference)


def merge(sheets: Sequence[SwapSheet]) -> SwapSheet:
    """One sheet in the order of the test split. Raises ValueError if a face was measured twice."""
    joined = {
        column.name: np.concatenate([getattr(sheet, column.name) for sheet in (NO_PAIRS, *sheets)])
        for column in fields(SwapSheet)
    }
    positions, times = np.unique(joined["positions"], return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"the swaps of the test positions {positions[times > 1].tolist()} were measured twice, expected each once: "
            "they would count double. Run the evaluation again."
        )
    order = np.argsort(joined["positions"])
    return SwapSheet(**{name: values[order] for name, values in joined.items()})
