"""Each face's mask in the whole style of the next face: do all parts take its colours, and does the mask still hold?

A part that the other face lacks takes the style that noise chooses. Whether it is there nevertheless is `lacking`: the
share of its pixels in which the parser sees it, over all parts that the reference lacks; to be read against the same
share of these parts in the reconstructions, `lacking_own`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scadm.evaluation.editing import ColourSheet
from scadm.evaluation.measure import Measure, existing, ratio
from scadm.evaluation.scores import ReadSheet
from scadm.faces import NUM_CLASSES
from scadm.pixels import Labels


@dataclass(frozen=True)
class TotalSheet(ReadSheet, ColourSheet):
    """N masks in the style of another face."""

    absent: NDArray[np.bool_]
    """(N, 19): classes of the mask that the reference lacks."""

    def summary(self, own: ReadSheet, truth: ReadSheet) -> dict[str, Measure]:
        """`own` are the reconstructions of the same faces, `truth` the real ones."""
        return {
            **self.colours(),
            **existing(lacking=_seen(self.confusion, self.absent), lacking_own=_seen(own.confusion, self.absent)),
            **self.obedience(),
            **self.distances(truth),
        }


def absent(labels: Labels, reference_labels: Labels) -> NDArray[np.bool_]:
    """Which classes each mask (B, H, W) shows and its reference does not: (B, 19)."""
    here, there = (
        np.stack([(maps == k).any(axis=(1, 2)) for k in range(NUM_CLASSES)], axis=1)
        for maps in (labels, reference_labels)
    )
    return here & ~there


def _seen(confusion: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Measure | None:
    """Share of the pixels of the chosen classes (N, 19) in which they are found."""
    found = np.einsum("nkk -> nk", confusion)
    return ratio((found * chosen).sum(axis=1).astype(float), (confusion.sum(axis=2) * chosen).sum(axis=1).astype(float))
