"""Exponential moving average of the weights that sampling uses: U-Net and style encoder."""

import torch
from torch import Tensor, nn


def decay_at(step: int, decay: float) -> float:
    """min(decay, (1 + n) / (10 + n)) after n steps: early on the average follows the weights."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """In place; `average` has the names of `model.state_dict()`."""
    weight = 1 - decay_at(step, decay)
    for name, tensor in model.state_dict().items():
        average[name].lerp_(tensor, weight)
