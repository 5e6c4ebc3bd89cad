"""From a face's own style to another's in even steps of the codes: is the way of the pictures even, and direct?

With x_0 .. x_W the pictures at equal distances of the weight, of the same mask and noise, and d the mean |change|
between two pictures:

    evenness   = mean of d(x_i, x_i+1) / largest of them     1: all steps look alike; low: the picture jumps somewhere
    directness = d(x_0, x_W) / sum of d(x_i, x_i+1)          1: every pixel goes straight; low: there are detours
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scadm.evaluation.measure import Measure, mean
from scadm.evaluation.sheet import Sheet
from scadm.pixels import Images

WEIGHTS = (0.25, 0.5, 0.75)
"""Between the own style (0) and the other one (1)."""
PARTS = ("hair", "skin", "nose", "neck")
"""Those that the row `parts` moves; the row `whole` moves all."""


@dataclass(frozen=True)
class PathSheet(Sheet):
    """N ways from one style to another."""

    steps: NDArray[np.float64]
    """Length of each step (N, W), mean |change| in [0, 1]."""
    direct: NDArray[np.float64]
    """From the first picture to the last (N,)."""

    def summary(self) -> dict[str, Measure]:
        """evenness and directness, over the ways on which anything changes; empty where none does."""
        moved = self.steps.sum(axis=1) > 0
        if moved.sum() < 2:
            return {}
        steps = self.steps[moved]
        return {
            "evenness": mean(steps.mean(axis=1) / steps.max(axis=1)),
            "directness": mean(self.direct[moved] / steps.sum(axis=1)),
        }


def measure(positions: Sequence[int], pictures: Sequence[Images]) -> PathSheet:
    """Of B ways, whose pictures (B, H, W, 3) are given weight by weight."""
    steps = [_change(*pair) for pair in pairwise(pictures)]
    return PathSheet(
        positions=np.asarray(positions, dtype=np.int64),
        steps=np.stack(steps, axis=1),
        direct=_change(pictures[0], pictures[-1]),
    )


def _change(before: Images, after: Images) -> NDArray[np.float64]:
    return np.abs(after.astype(np.int16) - before).mean(axis=(1, 2, 3)) / 255
