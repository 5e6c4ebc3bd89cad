"""Faces as they are stored, and as networks see them.

Stored: images uint8 RGB (B, H, W, 3) and label maps uint8 (B, H, W). Networks: float (B, 3, H, W).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]


class FaceSource(Protocol):
    """Faces that can be read by position."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        """Images (B, H, W, 3) and label maps (B, H, W)."""
        ...


class ImageSource(Protocol):
    """Images of one size that can be read by position."""

    def __len__(self) -> int: ...

    def image_batch(self, indices: Sequence[int]) -> Images:
        """Images (B, H, W, 3)."""
        ...


class JoinedImages:
    """The images of several sources of one size, one source after the other."""

    def __init__(self, *sources: ImageSource) -> None:
        self._sources = sources
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def image_batch(self, indices: Sequence[int]) -> Images:
        """Images (B, H, W, 3) in the order of `indices`, which count through all sources."""
        chosen = np.asarray(indices)
        owners = np.searchsorted(self._ends, chosen, side="right")
        batches = []
        for owner in np.unique(owners):
            source = self._sources[owner]
            batches.append(source.image_batch((chosen[owners == owner] - self._ends[owner] + len(source)).tolist()))
        # The batches lie one after the other in the order of a stable sort by owner; this puts each image back.
        images = np.concatenate(batches)
        return images[np.argsort(np.argsort(owners, kind="stable"))]


def as_tensor(stored: NDArray[np.uint8]) -> Tensor:
    """Images or label maps as they are: the array itself, or a copy where it is read-only, which a tensor cannot be."""
    array = np.ascontiguousarray(stored)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def to_unit(images: Images, device: torch.device | str = "cpu") -> Tensor:
    """Stored images (B, H, W, 3) as float32 (B, 3, H, W) in [0, 1]."""
    return rearrange(as_tensor(images).to(device), "B H W C -> B C H W").float() / 255


def to_signed(images: Images, device: torch.device | str = "cpu") -> Tensor:
    """Stored images (B, H, W, 3) as float32 (B, 3, H, W) in [-1, 1]."""
    return to_unit(images, device) * 2 - 1


def to_stored(signed: Tensor) -> Images:
    """Float (B, 3, H, W), clamped to [-1, 1], as images to store (B, H, W, 3)."""
    pixels = (signed.detach().float().clamp(-1, 1) + 1) * 127.5
    return rearrange(pixels.round().to(torch.uint8), "B C H W -> B H W C").cpu().numpy()
