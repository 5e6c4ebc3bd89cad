"""Classifier-free guidance, Eq. 4.

Written for the noise; it is the same for v, which at a given x_t is the noise but for a factor and a shift.
"""

from torch import Tensor


def guide(eps: Tensor, eps_null: Tensor, s: float) -> Tensor:
    """eps + s (eps - eps_null). The published code writes eps_null + (1 + s) (eps - eps_null), which is the same."""
    return eps + s * (eps - eps_null)
