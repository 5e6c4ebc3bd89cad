"""One synthetic face: its picture, its exact masks and the factors that made it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scadm.data.synthetic.factors import Factors, sample_factors
from scadm.data.synthetic.geometry import build_layers
from scadm.data.synthetic.layers import Layer
from scadm.data.synthetic.paint import paint_image, paint_parts

MIN_SIZE = 16
"""The smallest side in pixels: below it eyes and lips vanish."""


@dataclass(frozen=True)
class Face:
    """A face of side S.

    `image` is RGB (S, S, 3), 0 to 255; `labels` (S, S) are class ids; `parts` has a bool mask (S, S) for each
    class in sight, and laying them over each other in the order of the classes gives `labels`. Masks may
    overlap. `factors` are those of `scadm.data.synthetic.factors`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    parts: dict[str, NDArray[np.bool_]]
    factors: Factors


@dataclass(frozen=True)
class Sketch:
    """A face before it has a size: its factors and its layers, backmost first."""

    factors: Factors
    layers: list[Layer]

    def image(self, size: int) -> NDArray[np.uint8]:
        """The picture, RGB (size, size, 3), 0 to 255. Raises ValueError if `size` is below `MIN_SIZE`."""
        _require_size(size)
        return paint_image(self.layers, self.factors, size)

    def masks(self, size: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
        """`Face.labels` and `Face.parts` at a side of `size`. Raises ValueError if it is below `MIN_SIZE`."""
        _require_size(size)
        return paint_parts(self.layers, size)


def sketch_face(seed: int, index: int) -> Sketch:
    """Lay out face `index` of the data set `seed`. Raises ValueError if either is negative."""
    factors = sample_factors(seed, index)
    return Sketch(factors, build_layers(factors))


def draw_face(seed: int, index: int, size: int) -> Face:
    """Draw face `index` of the data set `seed` with a side of `size` pixels.

    The same seed and index give the same face at every size and among any number of faces.

    Raises ValueError if `seed` or `index` is negative or `size` is below `MIN_SIZE`.
    """
    sketch = sketch_face(seed, index)
    labels, parts = sketch.masks(size)
    return Face(sketch.image(size), labels, parts, sketch.factors)


def _require_size(size: int) -> None:
    if size < MIN_SIZE:
        raise ValueError(
            f"A face of {size} pixels was asked for, expected {MIN_SIZE} or more: smaller ones have no room "
            "for all parts. Draw it larger and resample it."
        )
