"""The vocabulary of facial parts: 19 classes in CelebAMask-HQ's official order.

Everything that stores or reads a mask uses this order and no other. It is written into every manifest
and checkpoint, and every reader compares it (`require_labels`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LABELS: tuple[str, ...] = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
"""Class names; a class id is the position in this tuple. `eye_g` is glasses, `ear_r` an earring, `neck_l` a
necklace, `mouth` its inside."""

NUM_CLASSES = len(LABELS)

CLASS_ID: dict[str, int] = {name: i for i, name in enumerate(LABELS)}

PALETTE: NDArray[np.uint8] = np.array(
    [
        [0, 0, 0],
        [204, 0, 0],
        [76, 153, 0],
        [204, 204, 0],
        [51, 51, 255],
        [204, 0, 204],
        [0, 255, 255],
        [255, 204, 204],
        [102, 51, 0],
        [255, 0, 0],
        [102, 204, 0],
        [255, 255, 0],
        [0, 0, 153],
        [0, 0, 204],
        [255, 51, 153],
        [0, 204, 204],
        [0, 51, 0],
        [255, 153, 51],
        [0, 204, 0],
    ],
    dtype=np.uint8,
)
"""RGB colour of each class (19, 3), as CelebAMask-HQ's own tools paint them."""

_SIDES = (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"))


def _mirror() -> NDArray[np.int64]:
    permutation = np.arange(NUM_CLASSES)
    for left, right in _SIDES:
        permutation[CLASS_ID[left]], permutation[CLASS_ID[right]] = CLASS_ID[right], CLASS_ID[left]
    return permutation


MIRROR: NDArray[np.int64] = _mirror()
"""MIRROR[k] is the class that k becomes when the picture is mirrored; it is its own inverse."""


def mirror_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirror label maps (..., H, W) left to right and exchange the left and right parts."""
    return MIRROR.astype(np.uint8)[labels[..., ::-1]]


def colourise(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint label maps (..., H, W) with `PALETTE`: RGB (..., H, W, 3), 0 to 255."""
    return PALETTE[labels]


def require_labels(found: Sequence[str], where: str) -> None:
    """Raise ValueError unless `found` is the official label list in the official order."""
    if tuple(found) != LABELS:
        raise ValueError(
            f"{where} uses the labels {list(found)}, expected {list(LABELS)} in this order. "
            "Masks read with another order would be assigned to the wrong parts: make that file again "
            "with this version, or convert its label ids."
        )


def require_ids(labels: NDArray[np.integer], where: str) -> None:
    """Raise ValueError if a label map (H, W) holds an id that is not a class."""
    highest = int(labels.max(initial=0))
    if highest >= NUM_CLASSES:
        raise ValueError(
            f"{where} holds the label id {highest}, expected ids 0 to {NUM_CLASSES - 1} "
            f"({LABELS[0]} to {LABELS[-1]}). Map your ids to the order of scadm.faces.LABELS first."
        )
