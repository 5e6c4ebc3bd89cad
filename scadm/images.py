"""Between the two forms of images: uint8 arrays (B, H, W, 3) and float tensors (B, 3, H, W) in [-1, 1]."""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    return rearrange(torch.from_numpy(np.ascontiguousarray(images)), "b h w c -> b c h w").float() / 127.5 - 1


def to_array(images: Tensor) -> NDArray[np.uint8]:
    pixels = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return rearrange(pixels.round().to(torch.uint8), "b c h w -> b h w c").cpu().numpy()
