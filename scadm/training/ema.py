"""Exponential moving average of the weights that sampling uses: U-Net and style encoder."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float) -> float:
    """min(decay, (1 + n) / (10 + n)) after n steps: early on the average follows the weights."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """In place; `average` has the names of `model.state_dict()`."""
    state = model.state_dict()
    update_all = get_ema_multi_avg_fn(decay_at(step, decay))  # in one go: a call for each tensor costs as much as all
    update_all([average[name] for name in state], list(state.values()), step)
