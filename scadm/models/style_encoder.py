"""Multi-resolution, class-adaptive style encoder E_s (Section 3.2): an image and its mask give one style code per part.

Every convolution is grouped by class, so that (with class-aligned skips) a part's code is computed from features
that belong to that class alone, pooled over that part's own pixels at several resolutions.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scadm.config import StyleEncoderConfig
from scadm.faces import NUM_CLASSES as K
from scadm.precision import full_precision

POOL_EPSILON = 1e-5  # added to the pixel count, so that a class which is absent gives zeros


class GroupedBlock(nn.Module):
    """3x3 convolution grouped by class, GroupNorm with a group a class, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=K)
        self.norm = nn.GroupNorm(K, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class RegionPool(nn.Module):
    """Mean of each class's features over that class's pixels, then a projection of its own for each class."""

    def __init__(self, features: int, style_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv1d(K * features, K * style_channels, 1, groups=K)

    def forward(self, x: Tensor, one_hot: Tensor) -> Tensor:
        """(B, K c, h, w) and the mask (B, K, H, W) -> (B, K, style_channels), in (-1, 1)."""
        mask = F.interpolate(one_hot, x.shape[-2:], mode="nearest")
        by_class = rearrange(x, "b (k c) h w -> b k c (h w)", k=K)
        weights = rearrange(mask, "b k h w -> b k (h w) 1")
        pooled = (by_class @ weights) / (rearrange(weights.sum(2), "b k 1 -> b k 1 1") + POOL_EPSILON)
        code = torch.tanh(self.project(rearrange(pooled, "b k c 1 -> b (k c) 1")))
        return rearrange(code, "b (k s) 1 -> b k s", k=K)


class ColourStatistics(nn.Module):
    """The extra style scale: mean and standard deviation of each class's RGB values, projected for each class.

    What no pooled convolution has to learn first. A class that is absent has zeros.
    """

    def __init__(self, style_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv1d(K * 6, K * style_channels, 1, groups=K)

    @staticmethod
    def statistics(image: Tensor, one_hot: Tensor) -> Tensor:
        """image (B, 3, H, W), one_hot (B, K, H, W) -> mean of R, G, B, then their standard deviations: (B, K, 6)."""
        pixels, mask = rearrange(image, "b c h w -> b (h w) c"), rearrange(one_hot, "b k h w -> b k (h w)")
        count = mask.sum(dim=2, keepdim=True) + POOL_EPSILON
        mean = mask @ pixels / count
        # The second moment about the picture's own mean, so that a small spread does not drown in a large mean.
        centre = pixels.mean(dim=1, keepdim=True)
        square = mask @ (pixels - centre).square() / count
        present = mask.amax(dim=2, keepdim=True)
        variance = (square - present * (mean - centre).square()).clamp(min=0)
        return torch.cat([mean, (variance + 1e-8).sqrt() * present], dim=2)

    def forward(self, image: Tensor, one_hot: Tensor) -> Tensor:
        """-> style codes (B, K, style_channels), in (-1, 1)."""
        with full_precision(image.device):  # a difference of large sums
            statistics = self.statistics(image.float(), one_hot.float())
        values = rearrange(statistics, "b k c -> b (k c) 1")
        return rearrange(torch.tanh(self.project(values)), "b (k s) 1 -> b k s", k=K)


class NoStyle(nn.Module):
    """What SDM has in the style encoder's place: codes without values."""

    code_channels = 0

    def forward(self, image: Tensor, one_hot: Tensor) -> Tensor:
        """-> style codes (B, K, 0)."""
        return image.new_zeros(len(image), K, 0)


class StyleEncoder(nn.Module):
    """E_s. Style codes are concatenated over the decoder's scales, coarse to fine."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.features * 2**i for i in range(config.downsamplings + 1)]
        # Grouped by class although each group reads a part of 3 RGB channels: so the first layer is not grouped.
        self.first = nn.Conv2d(3, K * widths[0], 3, padding=1)
        self.first_norm = nn.GroupNorm(K, K * widths[0])
        self.encoder = nn.ModuleList(
            GroupedBlock(K * width, K * 2 * width, stride=2) for width in widths[: config.downsamplings]
        )
        self.decoder = nn.ModuleList()
        self.pools = nn.ModuleList()
        for i in range(config.scales):
            width = widths[config.downsamplings - 1 - i]  # channels halve at each layer
            inputs = 2 * width if i == 0 else 4 * width  # from the second layer on, with the encoder's skip
            self.decoder.append(GroupedBlock(K * inputs, K * width))
            self.pools.append(RegionPool(width, config.style_channels))
        self.colour = ColourStatistics(config.style_channels) if config.colour_scale else None

    @property
    def code_channels(self) -> int:
        return (self.config.scales + self.config.colour_scale) * self.config.style_channels

    def forward(self, image: Tensor, one_hot: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1], one_hot (B, K, H, W) in {0, 1} -> style codes (B, K, code channels)."""
        x = F.relu(self.first_norm(self.first(image)))
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        skips.pop()  # the bottleneck itself
        codes = []
        for i, (block, pool) in enumerate(zip(self.decoder, self.pools, strict=True)):
            if i > 0:
                x = self._join(x, skips.pop())
            x = block(F.interpolate(x, scale_factor=2, mode="bilinear"))
            codes.append(pool(x, one_hot))
        if self.colour is not None:
            codes.append(self.colour(image, one_hot))
        return torch.cat(codes, dim=2)

    def _join(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.config.skip == "published":
            # The authors' code concatenates all of x, then all of the skip; the next grouped convolution then mixes
            # classes. Kept for their checkpoint.
            return torch.cat([x, skip], dim=1)
        pair = [rearrange(part, "b (k c) h w -> b k c h w", k=K) for part in (x, skip)]
        return rearrange(torch.cat(pair, dim=2), "b k c h w -> b (k c) h w")
