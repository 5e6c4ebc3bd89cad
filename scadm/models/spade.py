"""SPADE (spatially adaptive normalisation): the mask imposes itself through the scale and shift of a norm."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scadm.faces import NUM_CLASSES


class Modulation(NamedTuple):
    """1 + gamma and beta (B, C, h, w) of one SPADE; they depend on the mask only."""

    scale: Tensor
    beta: Tensor


class Spade(nn.Module):
    """h = GroupNorm(x) (1 + gamma) + beta, the norm without an affine part of its own."""

    def __init__(self, channels: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-5, affine=False)
        self.shared = nn.Conv2d(NUM_CLASSES, hidden, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden, 2 * channels, 3, padding=1)

    def modulation(self, mask: Tensor) -> Modulation:
        """mask (B, K, h, w), already at the size of the feature map."""
        # One convolution for both: the hidden features are read once.
        gamma, beta = self.gamma_beta(F.relu(self.shared(mask))).chunk(2, dim=1)
        return Modulation(1 + gamma, beta)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        return torch.addcmul(modulation.beta, self.norm(x), modulation.scale)
