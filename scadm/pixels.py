"""Images between how they are stored, uint8 RGB (B, H, W, 3), and how networks see them, float (B, 3, H, W)."""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor


def to_unit(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Stored images (B, H, W, 3) as float32 (B, 3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return rearrange(pixels, "B H W C -> B C H W").float() / 255


def to_signed(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Stored images (B, H, W, 3) as float32 (B, 3, H, W) in [-1, 1]."""
    return to_unit(images, device) * 2 - 1
