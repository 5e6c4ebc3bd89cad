"""A measured number with its 95 % bootstrap interval over faces, where it has one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scadm.evaluation.bootstrap import BOUNDS, interval, resamples


class Measure(NamedTuple):
    value: float
    low: float | None = None
    high: float | None = None


Measures = dict[str, dict[str, Measure]]
"""{row: {metric: measure}} of one task."""


def mean(values: NDArray[np.floating]) -> Measure:
    """Of one number a face (N,)."""
    return Measure(float(values.mean()), *interval(values.astype(np.float64)))


def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> Measure | None:
    """sum(parts) / sum(wholes), both (N,) and by face; None where the wholes are 0.

    A resample in which all wholes are 0 has no ratio and is left out.
    """
    if not wholes.any():
        return None
    times = resamples(len(wholes))
    part, whole = times @ parts, times @ wholes
    low, high = np.percentile(part[whole > 0] / whole[whole > 0], BOUNDS)
    return Measure(float(parts.sum() / wholes.sum()), float(low), float(high))


def existing(**measures: Measure | None) -> dict[str, Measure]:
    """Those that exist."""
    return {name: measure for name, measure in measures.items() if measure is not None}
