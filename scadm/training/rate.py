"""The learning rate's course over a training, as a share of its configured value."""

import math
from typing import Literal

Decay = Literal["constant", "cosine"]


def rate(step: int, steps: int, warmup: int, decay: Decay) -> float:
    """For step `step` of 0 .. steps - 1: linear up over `warmup` steps, and as `decay` says from the start.

    `cosine` falls to 0 at `steps`. A pure function of the step, so that a resumed run goes on as it would have.
    """
    up = min(1.0, (step + 1) / max(warmup, 1))
    return up if decay == "constant" else up * (1 + math.cos(math.pi * step / steps)) / 2
