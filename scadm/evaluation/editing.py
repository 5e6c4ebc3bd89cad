"""Is the style of some parts really taken from another face, and is nothing else changed?

Each test face that shows the parts is reconstructed, and made once more with their style from the next test face that
shows them. Mask, noise and all other styles are the same, so that the two pictures differ by these parts' style only.

With c_face the mean colour of a part in the reconstruction, c_out in the swap, and c_ref in the real reference (in its
own part), and with sums over all pairs of faces and the parts that both show:

    transfer = sum <c_out - c_face, c_ref - c_face> / sum |c_ref - c_face|^2     1: arrived; above 1: overshot
    arrival  = 1 - sum |c_out - c_ref| / sum |c_ref - c_face|                    at most 1; sees colour off the way too
    leakage  = sum of mean |change| outside the parts / sum of mean |change| inside     0: nothing else has changed
    other_side = sum of mean |change| in the other side's part / the same         the paper's case: one eye, the other

Outside begins a ring beyond the parts' border, as a latent cell there shows both. `other_side` exists where the parts
are those of one side. A metric whose denominator is 0 does not exist and is left out: leakage where nothing changed at
all, transfer and arrival where no face's colour differs from its reference's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray

from scadm.evaluation.measure import Measure, existing, ratio
from scadm.evaluation.metrics import masked_mean_abs_change
from scadm.evaluation.sheet import Sheet
from scadm.faces import MIRROR, NUM_CLASSES
from scadm.models.scadm import LATENT_FACTOR
from scadm.pixels import FaceSource, Images, Labels
from scadm.synthesis import part_ids

LEAST_SHARE = 0.002
"""Of a picture's pixels, for a face to show the parts: a few stray ones have no style that one could see."""
RING = LATENT_FACTOR
"""Pixels beyond the parts' border that are neither inside nor outside."""
LEAST_PAIRS = 2
"""One pair has no interval."""


@dataclass(frozen=True)
class ColourSheet(Sheet):
    """How the mean colours of P parts went, in N pairs; 0 of a part that one of the two faces lacks."""

    went: NDArray[np.float64]
    """c_out - c_face (N, P, 3), RGB in [-1, 1]."""
    way: NDArray[np.float64]
    """c_ref - c_face (N, P, 3)."""

    def colours(self) -> dict[str, Measure]:
        """transfer and arrival; empty with fewer than `LEAST_PAIRS` pairs."""
        if len(self) < LEAST_PAIRS:
            return {}
        missed, length = (np.linalg.norm(gap, axis=2).sum(axis=1) for gap in (self.went - self.way, self.way))
        left = ratio(missed, length)
        return existing(
            transfer=ratio((self.went * self.way).sum(axis=(1, 2)), (self.way**2).sum(axis=(1, 2))),
            # 1 - the rest: the ends of the interval change places.
            arrival=None if left is None else Measure(*(1 - end for end in (left.value, left.high, left.low))),  # type: ignore[operator]
        )


@dataclass(frozen=True)
class SwapSheet(ColourSheet):
    """What was measured of N pairs whose faces differ by the style of some parts."""

    inside: NDArray[np.float64]
    """Mean |change| in the parts (N,), in [0, 1]."""
    outside: NDArray[np.float64]
    """Mean |change| well outside of them (N,), in [0, 1]."""
    other_side: NDArray[np.float64]
    """Mean |change| in the same parts of the other side (N,); NaN where there are none."""

    def summary(self) -> dict[str, Measure]:
        """transfer, arrival, leakage and other_side; empty with fewer than `LEAST_PAIRS` pairs."""
        if len(self) < LEAST_PAIRS:
            return {}
        both = np.isfinite(self.other_side)
        return self.colours() | existing(
            leakage=ratio(self.outside, self.inside),
            other_side=ratio(self.other_side[both], self.inside[both]) if both.sum() >= LEAST_PAIRS else None,
        )


def region(labels: Labels, ids: Sequence[int]) -> NDArray[np.bool_]:
    """Where label maps (B, H, W) show any of the classes: (B, H, W)."""
    return np.isin(labels, ids)


def shown(labels: Labels, ids: Sequence[int]) -> NDArray[np.bool_]:
    """Which label maps (B, H, W) show the classes, by `LEAST_SHARE` of their pixels at least: (B,)."""
    return region(labels, ids).mean(axis=(1, 2)) >= LEAST_SHARE


def grown(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A region (B, H, W) with all pixels that lie within `RING` of it, along rows, columns and diagonals."""
    pixels = rearrange(torch.from_numpy(part).float(), "b h w -> b 1 h w")
    found = F.max_pool2d(pixels, 2 * RING + 1, stride=1, padding=RING)  # beyond the picture there is nothing
    return rearrange(found > 0, "b 1 h w -> b h w").numpy()


def other_side(ids: Sequence[int]) -> list[int]:
    """The classes that mirror these, if these are of one side only; else none."""
    mirrored = {int(MIRROR[k]) for k in ids}
    return [] if mirrored & set(ids) else sorted(mirrored)


def partner(source: FaceSource, position: int, count: int, ids: Sequence[int]) -> int | None:
    """The next of the first `count` faces, cyclically, that shows the classes; None where no other one does."""
    for other in ((position + step) % count for step in range(1, count)):
        if shown(source.batch([other])[1], ids)[0]:
            return other
    return None


def colour_sheet(
    positions: Sequence[int],
    before: Images,
    after: Images,
    labels: Labels,
    references: Images,
    reference_labels: Labels,
    ids: Sequence[int],
) -> ColourSheet:
    """How the parts' colours went in B pictures (B, H, W, 3) of masks (B, H, W), from `before` to `after`."""
    face, present = _mean_colours(before, labels, ids)
    goal, there = _mean_colours(references, reference_labels, ids)
    both = (present & there)[..., None]
    out, _ = _mean_colours(after, labels, ids)
    return ColourSheet(
        positions=np.asarray(positions, dtype=np.int64),
        went=np.where(both, out - face, 0),
        way=np.where(both, goal - face, 0),
    )


def _mean_colours(images: Images, labels: Labels, ids: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of each class in each image (B, P, 3), RGB in [0, 1]; and whether it is shown (B, P)."""
    parts = np.stack([labels == k for k in ids], axis=1)  # (B, P, H, W)
    pixels = parts.sum(axis=(2, 3))
    sums = np.einsum("bphw, bhwc -> bpc", parts, images, dtype=np.int64)  # of integers: exact
    return sums / np.maximum(pixels, 1)[..., None] / 255, pixels >= LEAST_SHARE * labels[0].size


def score(
    positions: Sequence[int],
    before: Images,
    after: Images,
    labels: Labels,
    references: Images,
    reference_labels: Labels,
    ids: Sequence[int],
) -> SwapSheet:
    """Measure B swaps: reconstructions and swapped pictures (B, H, W, 3) of masks (B, H, W), and their references.

    Raises ValueError for a face that has nothing inside or nothing outside.
    """
    part, mirrored = region(labels, ids), region(labels, other_side(ids))
    has_other = shown(labels, other_side(ids))
    beside = np.full(len(before), np.nan)
    if has_other.any():
        beside[has_other] = masked_mean_abs_change(before[has_other], after[has_other], mirrored[has_other])
    colours = colour_sheet(positions, before, after, labels, references, reference_labels, ids)
    return SwapSheet(
        positions=colours.positions,
        went=colours.went,
        way=colours.way,
        inside=masked_mean_abs_change(before, after, part),
        outside=masked_mean_abs_change(before, after, ~grown(part)),
        other_side=beside,
    )


def nothing(parts: int) -> SwapSheet:
    """Of no pair."""
    none, ways = np.empty(0), np.empty((0, parts, 3))
    return SwapSheet(np.empty(0, np.int64), ways, ways, none, none, none)


def swap(
    make: Callable[[list[int], Images, Labels], Images],
    source: FaceSource,
    positions: Sequence[int],
    labels: Labels,
    before: Images,
    count: int,
    parts: Sequence[str],
) -> SwapSheet:
    """Swap parts of the faces at `positions` out of the first `count`, and measure what that changes.

    `before` (B, H, W, 3) are the reconstructions of the masks `labels`. `make` gets the indices of some of these faces,
    and as many references and their masks; it makes the swapped pictures. A face that does not show the parts, has
    nothing outside of them, or has no partner, gives no pair.
    """
    ids = part_ids(parts)
    able = shown(labels, ids) & (~grown(region(labels, ids))).any(axis=(1, 2))
    partners = {i: partner(source, positions[i], count, ids) for i in np.flatnonzero(able).tolist()}
    pairs = {i: other for i, other in partners.items() if other is not None}
    if not pairs:
        return nothing(len(ids))
    chosen = list(pairs)
    reference = source.batch(list(pairs.values()))
    after = make(chosen, *reference)
    return score([positions[i] for i in chosen], before[chosen], after, labels[chosen], *reference, ids)


ALL = list(range(NUM_CLASSES))
"""Class ids of a whole face, for `colour_sheet`."""
