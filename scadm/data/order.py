"""The order in which training sees the samples, as a pure function.

Global sample positions count up from 0 over all epochs. Position p is sample `permutation(seed, epoch)[p mod n]` of
epoch p // n: batches run on across the end of an epoch, so each sample comes exactly once an epoch and every rank
takes the same number of steps. The state of the loader is one integer, the step.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)  # a batch may span two epochs
def _permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(samples)


def sample_at(position: int, seed: int, samples: int) -> int:
    """Index of the sample at a global position."""
    epoch, offset = divmod(position, samples)
    return int(_permutation(seed, epoch, samples)[offset])


def rank_positions(step: int, batch: int, rank: int, ranks: int) -> range:
    """Global positions that a rank takes in a step: its part of the `batch` positions from step x batch on.

    Any number of ranks up to `batch` will do: where they do not divide it, some take one position more than others.
    """
    if ranks > batch:
        raise ValueError(f"a batch of {batch} cannot be shared by {ranks} ranks: some would have nothing to do")
    first = step * batch
    return range(first + rank * batch // ranks, first + (rank + 1) * batch // ranks)


def micro_batches(positions: Sequence[int], size: int) -> list[list[int]]:
    """Cut a rank's positions into forward passes of `size` samples, the last one of what is left."""
    return [list(positions[i : i + size]) for i in range(0, len(positions), size)]
