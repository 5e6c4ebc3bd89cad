"""Masks that are probably wrong: simple rules that a face's label map should obey.

A rule that is broken is a reason to look, not a verdict: profiles, hands and masks of masks break some of them too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scadm.faces import CLASS_ID

Labels = NDArray[np.uint8]

PAIRS = (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"))

RULES: dict[str, str] = {
    "no_skin": "there is no skin",
    "few_classes": "fewer than four classes are shown",
    "scattered_skin": "the largest piece of skin is less than 60 % of the skin: two faces, or a torn mask",
    "eye_outside": "less than half of what surrounds an eye is skin, nose, brow, glasses or the other eye",
    "mouth_outside": "less than half of what surrounds the mouth and lips is skin or nose",
    "lips_exchanged": "the upper lip lies below the lower lip",
    "sides_exchanged": "a left part lies on the other side of its right one than in most faces",
}
"""Name -> what is wrong."""

_NEAR_EYE = [CLASS_ID[name] for name in ("skin", "nose", "l_brow", "r_brow", "eye_g", "l_eye", "r_eye")]
_NEAR_MOUTH = [CLASS_ID[name] for name in ("skin", "nose")]
_MOUTH = [CLASS_ID[name] for name in ("mouth", "u_lip", "l_lip")]
_LEAST_PIXELS = 4


class Suspicion(NamedTuple):
    position: int
    """Of the face."""
    rule: str


class Sides(NamedTuple):
    """On which side of its right part each left part lies: -1, 1, or 0 where one of them is not shown."""

    eye: int
    brow: int
    ear: int


def broken_rules(labels: Labels) -> list[str]:
    """The rules that a label map (H, W) breaks by itself; `sides_exchanged` needs the others."""
    found = []
    skin = labels == CLASS_ID["skin"]
    if not skin.any():
        found.append("no_skin")
    elif _largest_piece(skin) < 0.6:
        found.append("scattered_skin")
    if len(np.unique(labels)) < 4:
        found.append("few_classes")
    for eye in ("l_eye", "r_eye"):
        around = _around(labels, labels == CLASS_ID[eye])
        if around.size and np.isin(around, _NEAR_EYE).mean() < 0.5:
            found.append("eye_outside")
            break
    around = _around(labels, np.isin(labels, _MOUTH))
    if around.size and np.isin(around, _NEAR_MOUTH).mean() < 0.5:
        found.append("mouth_outside")
    upper, lower = (_centre(labels, name) for name in ("u_lip", "l_lip"))
    if upper is not None and lower is not None and upper[0] > lower[0]:
        found.append("lips_exchanged")
    return found


def sides(labels: Labels) -> Sides:
    """Of a label map (H, W)."""
    found = []
    for left, right in PAIRS:
        a, b = _centre(labels, left), _centre(labels, right)
        found.append(0 if a is None or b is None else int(np.sign(a[1] - b[1])))
    return Sides(*found)


def usual_sides(every: Sequence[Sides]) -> Sides:
    """The side of most faces."""
    return Sides(*(int(np.sign(sum(column))) for column in zip(*every, strict=True)))


def exchanged(found: Sides, usual: Sides) -> bool:
    """Whether a left part lies on the other side of its right one than usual."""
    return any(a * b < 0 for a, b in zip(found, usual, strict=True))


def _largest_piece(shown: NDArray[np.bool_]) -> float:
    """Share of the pixels that the largest connected piece holds."""
    pieces = np.empty(shown.shape, np.int32)
    ndimage.label(shown, output=pieces)
    return float(np.bincount(pieces.ravel())[1:].max() / shown.sum())


def _around(labels: Labels, shown: NDArray[np.bool_]) -> Labels:
    """The labels of the pixels within a fiftieth of the side from what is shown, it left out; few pixels: none."""
    if shown.sum() < _LEAST_PIXELS:
        return labels[:0].ravel()
    near = np.asarray(ndimage.binary_dilation(shown, iterations=max(1, len(labels) // 50)), np.bool_)
    return labels[near & ~shown]


def _centre(labels: Labels, name: str) -> tuple[float, float] | None:
    """Mean row and column of a class; None where it is not shown, or hardly."""
    rows, columns = np.nonzero(labels == CLASS_ID[name])
    return (float(rows.mean()), float(columns.mean())) if len(rows) >= _LEAST_PIXELS else None
