"""A small VQ autoencoder with a downsampling of 4, for machines and image sizes that VQ-f4 is too large for.

Like VQ-f4, its latents are the encoder's output before quantisation, and decoding quantises first.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scadm.config import AutoencoderConfig


class ResBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(GroupNorm(x))))).

    One norm, and none on the way from image to latent and back: a norm takes out a picture's own mean, and a short
    training then loses its hue.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_out(F.silu(self.conv_in(F.silu(self.norm(x)))))


class Quantised(NamedTuple):
    latent: Tensor
    """Each cell replaced by its nearest code; the gradient passes straight through to the encoder."""
    ids: Tensor
    """Index of the nearest code (B, h, w)."""


class VQAutoencoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] <-> latents (B, C, H / 4, W / 4)."""

    codebook: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        if len(config.multipliers) != 2:
            raise ValueError(
                f"autoencoder.network.multipliers is {config.multipliers}, expected two: at a half and at a quarter"
            )
        self.config = config
        half, quarter = (config.channels * m for m in config.multipliers)

        def blocks(channels: int) -> nn.Sequential:
            return nn.Sequential(*(ResBlock(channels, config.groups) for _ in range(config.res_blocks)))

        # No block works at the full resolution: there it would cost most and, in a short training, give least.
        self.encoder = nn.Sequential(
            nn.Conv2d(3, half, 4, stride=2, padding=1),
            blocks(half),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            blocks(quarter),
            nn.SiLU(),
            nn.Conv2d(quarter, config.latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, quarter, 3, padding=1),
            blocks(quarter),
            nn.Conv2d(quarter, 4 * half, 3, padding=1),
            nn.PixelShuffle(2),
            blocks(half),
            nn.SiLU(),
            nn.Conv2d(half, 3 * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        # A buffer: the codebook follows the encoder by moving averages, not by gradients.
        self.register_buffer("codebook", torch.randn(config.codes, config.latent_channels))

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def quantise(self, latent: Tensor) -> Quantised:
        cells = rearrange(latent, "b c h w -> (b h w) c")
        ids = torch.cdist(cells.float(), self.codebook.float()).argmin(dim=1)
        nearest = rearrange(
            self.codebook[ids],
            "(b h w) c -> b c h w",
            b=latent.shape[0],
            h=latent.shape[2],
            w=latent.shape[3],
        )
        return Quantised(
            latent=latent + (nearest - latent).detach(),
            ids=rearrange(ids, "(b h w) -> b h w", b=latent.shape[0], h=latent.shape[2]),
        )

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(self.quantise(latent).latent)
