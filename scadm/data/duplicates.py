"""Whether two images show the same picture, though one of them was encoded anew, resized, mirrored or toned.

Each image is made a thumbnail of 16 x 16 grey values, and these are replaced by their ranks, which brightness,
contrast and colour balance change little. The correlation of two thumbnails is then near 1 only for the same picture.
"""

from collections.abc import Iterator, Sequence, Sized

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scadm.pixels import Images, ImageSource

SIDE = 16
"""Of a thumbnail, in pixels."""

SAME = 0.94
"""The correlation from which two images count as the same picture.

Measured at 64 and at 128 pixels on 720 faces of CelebAMask-HQ and 1,000 of CelebA-HQ. Of each of the 1,000, the nearest
of the 720: 27 lie at 0.975 or above and are, looked at, the same picture, some of them in other colours; the others lie
at 0.917 or below and show somebody else. In between there is nothing. (Of the plain grey values, without ranks, the
lowest of the same pictures are at 0.961, and the highest of the others at 0.969.) Of 120 of these faces against
themselves, the lowest: 0.989 as JPEG of quality 10, 0.981 through 64 pixels, 0.978 brightened by 30 %, 0.981 cropped by
1 % on each side, and 0.934 cropped by 2 %: from there on some are missed, as is a picture so brightened that half of it
is white.
"""

_BLOCK = 256
"""Images that are looked at at a time, which bounds the memory that this takes."""


def signatures(images: Images) -> NDArray[np.float32]:
    """Images (N, H, W, 3) as ranked thumbnails (N, SIDE, SIDE), centred and of unit length; of a flat image, zeros."""
    size = (SIDE, SIDE)
    small = [Image.fromarray(image).convert("L").resize(size, Image.Resampling.BOX) for image in images]
    grey = np.array([np.asarray(picture) for picture in small], np.int64).reshape(-1, SIDE * SIDE)
    rank = np.take_along_axis(_rank_of_value(grey), grey, axis=1)
    centred = rank - rank.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return unit.astype(np.float32).reshape(-1, SIDE, SIDE)


def nearest(mine: NDArray[np.float32], others: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each signature, or its mirror, the place among `others` of the one it correlates with most, and how much."""
    both = np.stack([mine, mine[:, :, ::-1]]).reshape(2, len(mine), -1)
    found = (both @ others.reshape(len(others), -1).T).max(axis=0)
    index = found.argmax(axis=1)
    return index, np.take_along_axis(found, index[:, None], axis=1)[:, 0]


def similarity(images: Images, others: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest correlation, -1 to 1, of each image (N, H, W, 3) or its mirror with the signatures `others`: (N,)."""
    return nearest(signatures(images), others)[1]


def shown_again(images: Images, held_out: Sequence[ImageSource]) -> NDArray[np.bool_]:
    """For each image (N, H, W, 3), whether it shows the same picture as one of `held_out`: (N,)."""
    others = np.concatenate([signatures(source.image_batch(rows)) for source in held_out for rows in _blocks(source)])
    again = np.zeros(len(images), np.bool_)
    for rows in _blocks(images):
        again[rows.start : rows.stop] = similarity(images[rows.start : rows.stop], others) >= SAME
    return again


def _rank_of_value(grey: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean rank of each value 0 to 255 in each row of `grey` (N, M): (N, 256)."""
    rows = np.arange(len(grey))[:, None]
    counts = np.bincount((grey + 256 * rows).ravel(), minlength=256 * len(grey)).reshape(-1, 256)
    return np.cumsum(counts, axis=1) - counts / 2


def _blocks(source: Sized) -> Iterator[range]:
    for first in range(0, len(source), _BLOCK):
        yield range(first, min(first + _BLOCK, len(source)))
