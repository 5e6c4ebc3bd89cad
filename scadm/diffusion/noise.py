"""Random numbers as pure functions of who they are for, so that they depend on no batch, rank or worker."""

import numpy as np
import torch
from torch import Tensor

# The streams of one training sample or one sampled image; each is independent of the others.
TIMESTEP, NOISE, FLIP, DROP, SAMPLING, VALIDATION, DROPOUT = range(7)


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """Counter-based generator (Philox) for one stream of one position, e.g. a global sample position."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, position]))


def normal(seed: int, stream: int, positions: list[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (B, *shape) in float32, one row for each position."""
    rows = [generator(seed, stream, position).standard_normal(shape, dtype=np.float32) for position in positions]
    return torch.from_numpy(np.stack(rows))
