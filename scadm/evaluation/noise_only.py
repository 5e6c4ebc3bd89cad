"""Faces for masks alone, noise choosing every style: how near to real faces, how fast, and how diverse.

Diversity is taken between two pictures of the same mask. By LPIPS, as in the paper, it is their mean distance. By the
features of another network it is that distance over the distance of two real faces: 1 means as unlike one another as
two real people.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scadm.evaluation.measure import Measure, mean, ratio
from scadm.evaluation.scores import ReadSheet
from scadm.evaluation.sheet import Sheet


@dataclass(frozen=True)
class NoiseSheet(ReadSheet):
    """Pictures of N masks in some number of sampling steps."""

    seconds: NDArray[np.float64]
    """For each (N,), of a chunk the same: on one thread, or on a GPU."""


@dataclass(frozen=True)
class PairSheet(Sheet):
    """Two pictures of each of N masks."""

    perceptual: Mapping[str, NDArray[np.float64]]
    """{network: LPIPS between the two (N,)}."""


def diversity(first: ReadSheet, second: ReadSheet, truth: ReadSheet, pairs: PairSheet) -> dict[str, Measure]:
    """diversity_<network>, of all networks that there are."""
    found = {f"diversity_{name}": mean(values) for name, values in pairs.perceptual.items()}
    for name, features in first.features.items():
        real = truth.features[name]
        apart = np.linalg.norm(features - second.features[name], axis=1)
        measure = ratio(
            apart.astype(np.float64), np.linalg.norm(real - np.roll(real, -1, axis=0), axis=1).astype(float)
        )
        found |= {} if measure is None else {f"diversity_{name}": measure}
    return found
