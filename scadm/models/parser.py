"""A small face parser: a U-Net from an image to the class of each pixel.

It measures; it is not part of the generative model. Its deepest features, pooled over the picture, are also
what the Frechet distance compares where no published feature network is at hand.
"""

from itertools import pairwise
from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn

from scadm.config import ParserConfig
from scadm.faces import NUM_CLASSES


class Block(nn.Module):
    """A residual block: two 3x3 convolutions with GroupNorm and SiLU, the second dilated on demand."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        groups = gcd(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm2 = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        return F.silu(x + h)


class FaceParser(nn.Module):
    """U-Net with one block a level on the way down and one on the way up; the first level is at half the resolution.

    The head names the four pixels of a cell at once: blocks at the full resolution would cost most and find little.
    At the deepest level dilated blocks and the mean over the picture widen the view: the left and the right of
    a pair of parts look alike, and only the rest of the face tells them apart.
    """

    def __init__(self, config: ParserConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.stride = 2 ** len(widths)
        self.num_features = widths[-1]

        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.down_blocks = nn.ModuleList(Block(width) for width in widths[:-1])
        self.downsamplers = nn.ModuleList(
            nn.Conv2d(width, deeper, 3, stride=2, padding=1) for width, deeper in pairwise(widths)
        )
        self.middle = nn.Sequential(*(Block(widths[-1], dilation) for dilation in (1, 4)))
        self.context = nn.Linear(widths[-1], widths[-1])
        self.narrowers = nn.ModuleList(nn.Conv2d(deeper, width, 1) for width, deeper in pairwise(widths))
        self.up_blocks = nn.ModuleList(Block(width) for width in widths[:-1])
        self.head = nn.Sequential(nn.Conv2d(widths[0], 4 * NUM_CLASSES, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 19, H, W) from an image (B, 3, H, W) in [-1, 1]; H and W divisible by `stride`."""
        return self.parse(image)[0]

    def features(self, image: Tensor) -> Tensor:
        """The deepest features, averaged over the picture: (B, num_features)."""
        return self._encode(image)[0].mean(dim=(2, 3))

    def parse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 19, H, W) and pooled features (B, num_features) from one pass."""
        h, skips = self._encode(image)
        pooled = h.mean(dim=(2, 3))  # (B, F)
        h = h + self.context(pooled)[:, :, None, None]
        for narrow, block, skip in zip(self.narrowers[::-1], self.up_blocks[::-1], skips[::-1], strict=True):
            # Narrowed before it grows, and added rather than concatenated: a third of the full-size work.
            h = block(F.interpolate(narrow(h), scale_factor=2.0, mode="nearest") + skip)
        return self.head(h), pooled

    def _encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Deepest features (B, F, H / stride, W / stride), and each higher level's before its downsampling."""
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"the image is {height} x {width}, expected both divisible by {self.stride}: a parser with "
                f"{len(self.config.multipliers)} multipliers halves the picture as many "
                "times. Choose such a project.resolution, or fewer parser.network.multipliers."
            )
        h = self.stem(image)
        skips = []
        for block, downsample in zip(self.down_blocks, self.downsamplers, strict=True):
            h = block(h)
            skips.append(h)
            h = downsample(h)
        return self.middle(h), skips
