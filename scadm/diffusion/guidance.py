"""Classifier-free guidance, Eq. 4, at the timesteps of an interval.

Written for the noise; it is the same for v, which at a given x_t is the noise but for a factor and a shift.
"""

from torch import Tensor


def guide(eps: Tensor, eps_null: Tensor, s: float) -> Tensor:
    """eps + s (eps - eps_null). The published code writes eps_null + (1 + s) (eps - eps_null), which is the same."""
    return eps + s * (eps - eps_null)


def is_guided(t: int, timesteps: int, interval: tuple[float, float]) -> bool:
    """Whether t of 0 .. T - 1 is in the interval [low, high) of fractions of T = `timesteps`.

    Elsewhere s is 0, and the null prediction is not needed. Kynkaanniemi et al. 2024, Applying Guidance in a Limited
    Interval Improves Sample and Distribution Quality (which gives the interval in noise levels).
    """
    low, high = interval
    return low * timesteps <= t < high * timesteps
