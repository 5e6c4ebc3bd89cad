"""Pictures that need no model, which give a model's numbers their meaning.

`style_blind` knows the mask and nothing of the face; `own_colours` knows the mask and one colour for each part.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scadm import faces
from scadm.pixels import FaceSource, Images, Labels


@dataclass(frozen=True)
class MeanColours:
    """The mean colour of each class over many faces."""

    colours: NDArray[np.float64]
    """RGB (19, 3) in [0, 255]; of a class that no face shows, the mean over all pixels."""
    pixels: NDArray[np.int64]
    """Pixels of each class (19,) that the mean was taken over."""

    @classmethod
    def measure(cls, source: FaceSource, batch_size: int = 64) -> "MeanColours":
        """Stream over all faces of `source`. Raises ValueError if it is empty or holds an unknown label id."""
        sums = np.zeros((faces.NUM_CLASSES, 3))
        pixels = np.zeros(faces.NUM_CLASSES, dtype=np.int64)
        for start in range(0, len(source), batch_size):
            images, labels = source.batch(range(start, min(start + batch_size, len(source))))
            faces.require_ids(labels, "the train split")
            batch_sums, batch_pixels = _totals(images, labels.astype(np.int64), faces.NUM_CLASSES)
            sums += batch_sums
            pixels += batch_pixels
        if not pixels.any():
            raise ValueError(
                "the train split holds no pixel, so a class has no mean colour and the row style_blind cannot be "
                "made. Run `dvc repro` with more faces, or lower data.split.validation and data.split.test."
            )
        overall = sums.sum(axis=0) / pixels.sum()
        colours = np.where(pixels[:, None] > 0, sums / np.maximum(pixels, 1)[:, None], overall)
        return cls(colours, pixels)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes that no face showed; the report states them."""
        return tuple(name for name, count in zip(faces.LABELS, self.pixels, strict=True) if not count)

    def style_blind(self, labels: Labels) -> Images:
        """Paint label maps (B, H, W) with the mean colours: images uint8 (B, H, W, 3)."""
        return self.colours.round().astype(np.uint8)[labels]


def own_colours(images: Images, labels: Labels) -> Images:
    """Paint each label map (B, H, W) with its own image's (B, H, W, 3) mean colour of each class."""
    faces.require_ids(labels, "a mask")
    count = len(images) * faces.NUM_CLASSES
    parts = labels + faces.NUM_CLASSES * np.arange(len(images))[:, None, None]  # (B, H, W), one id a face and class
    sums, pixels = _totals(images, parts, count)
    # A class that a face lacks is painted nowhere in it.
    colours = sums / np.maximum(pixels, 1)[:, None]
    return colours.round().astype(np.uint8)[parts]


def _totals(images: Images, parts: NDArray[np.int64], count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of colours (count, 3) and number of pixels (count,) of each part id; exact, so batches may differ."""
    ids = parts.ravel()
    sums = np.zeros((count, 3))
    for channel in range(3):
        sums[:, channel] = np.bincount(ids, weights=images[..., channel].ravel(), minlength=count)
    return sums, np.bincount(ids, minlength=count)
