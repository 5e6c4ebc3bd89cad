"""Bootstrap over faces: how far a number would move if other faces of the same kind had been measured."""

import numpy as np
from numpy.typing import NDArray

TIMES = 2000


def resamples(count: int, times: int = TIMES) -> NDArray[np.int64]:
    """How often each of `count` faces is drawn, in each resample: (times, count); always the same draws."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=times)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of the mean of `values` (N,)."""
    low, high = np.percentile(resamples(len(values)) @ values / len(values), [2.5, 97.5])
    return float(low), float(high)
