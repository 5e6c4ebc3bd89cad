"""How sure a mean over few faces is: its bootstrap interval, the same at each call."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""The bounds of an interval then move by a twentieth of its width from one seed to another."""
BOUNDS = (2.5, 97.5)
"""Percentiles: of 95 %."""


def resamples(count: int, times: int = RESAMPLES) -> NDArray[np.int64]:
    """How often each of `count` faces is drawn, in `times` draws of as many with replacement: (times, count).

    The numbers are a function of the two arguments alone, so that equal inputs have equal intervals.
    """
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=times)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `values` (N,), N of at least 1.

    Of differences between two models on the same faces it is the paired interval: what makes a face hard for both
    has gone from them.
    """
    means = resamples(len(values)) @ values / len(values)  # (RESAMPLES,)
    low, high = np.percentile(means, BOUNDS)
    return float(low), float(high)
