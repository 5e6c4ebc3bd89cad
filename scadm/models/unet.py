"""The denoising U-Net epsilon_theta(x_t, t, conditioning): plain ResBlocks down, SPADE ResBlocks in the middle and up.

Split in two, because the mask and the style codes stay the same in all steps of a sampling:
`condition` computes all that depends on them, `forward` all that depends on x_t and t.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scadm.config import UNetConfig
from scadm.models.attention import CrossCondition, SpatialTransformer
from scadm.models.spade import Modulation, Spade


class BlockCondition(NamedTuple):
    """What one block of the U-Net needs from the mask and the style codes."""

    spade: tuple[Modulation, Modulation] | None = None
    cross: CrossCondition | None = None


class Conditioning(NamedTuple):
    """Everything in the U-Net that does not depend on x_t and t, block by block."""

    encoder: tuple[BlockCondition, ...]
    middle: tuple[BlockCondition, ...]
    decoder: tuple[BlockCondition, ...]

    @property
    def batch_and_size(self) -> tuple[int, int, int]:
        """(B, h, w) of the latents that this is for."""
        finest = self.decoder[-1].spade
        assert finest is not None
        batch, _, height, width = finest[1].beta.shape
        return batch, height, width


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of t (B,) -> (B, channels), cosines first, with a longest period of 10000."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = rearrange(t.float(), "b -> b 1") * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(config.groups, inputs, eps=1e-5)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_channels, outputs)
        self.norm_out = nn.GroupNorm(config.groups, outputs, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, condition: BlockCondition) -> Tensor:
        """x (B, C, h, w), time (B, T) after its SiLU -> (B, C', h, w)."""
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = h + rearrange(self.time(time), "b c -> b c 1 1")
        return self.skip(x) + self.conv_out(self.dropout(F.silu(self.norm_out(h))))


class SpadeResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_in = Spade(inputs, config.spade_channels, config.groups)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_channels, outputs)
        self.norm_out = Spade(outputs, config.spade_channels, config.groups)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def condition(self, mask: Tensor) -> tuple[Modulation, Modulation]:
        return self.norm_in.modulation(mask), self.norm_out.modulation(mask)

    def forward(self, x: Tensor, time: Tensor, condition: BlockCondition) -> Tensor:
        """x (B, C, h, w), time (B, T) after its SiLU -> (B, C', h, w)."""
        assert condition.spade is not None
        before, after = condition.spade
        h = self.conv_in(F.silu(self.norm_in(x, before)))
        h = h + rearrange(self.time(time), "b c -> b c 1 1")
        return self.skip(x) + self.conv_out(self.dropout(F.silu(self.norm_out(h, after))))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Module):
    """A ResBlock of either kind, then a transformer where attended, then a change of resolution where due."""

    def __init__(
        self,
        res: ResBlock | SpadeResBlock,
        attention: SpatialTransformer | None = None,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.res = res
        self.attention = attention
        self.resample = resample

    def condition(self, style: Tensor, mask: Tensor) -> BlockCondition:
        """style (B, K, code channels), mask (B, K, h, w) at this block's resolution."""
        return BlockCondition(
            spade=self.res.condition(mask) if isinstance(self.res, SpadeResBlock) else None,
            cross=self.attention.condition(style, mask) if self.attention is not None else None,
        )

    def forward(self, x: Tensor, time: Tensor, condition: BlockCondition) -> Tensor:
        x = self.res(x, time, condition)
        if self.attention is not None:
            assert condition.cross is not None
            x = self.attention(x, condition.cross)
        return x if self.resample is None else self.resample(x)


class UNet(nn.Module):
    """epsilon_theta. Takes and returns latents (B, latent channels, h, w)."""

    def __init__(self, config: UNetConfig, latent_channels: int, code_channels: int) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        """Whether each block's activations are computed again in the backward pass instead of being kept."""
        time_channels = 4 * config.channels
        self.time = nn.Sequential(
            nn.Linear(config.channels, time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels)
        )
        self.stem = nn.Conv2d(latent_channels, config.channels, 3, padding=1)

        def transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels, code_channels, config.head_channels, config.groups, config.mask_attention
            )

        channels, factor = config.channels, 1
        skips = [channels]
        self.encoder = nn.ModuleList()  # Blocks, and between two levels a stride-2 convolution
        self.encoder_factors: list[int] = []  # downsampling factor at which each of them works
        for level, multiplier in enumerate(config.multipliers):
            width = multiplier * config.channels
            for _ in range(config.res_blocks):
                attend = factor in config.attention_at
                res = ResBlock(channels, width, time_channels, config)
                self.encoder.append(Block(res, transformer(width) if attend else None))
                self.encoder_factors.append(factor)
                channels = width
                skips.append(channels)
            if level + 1 < len(config.multipliers):
                self.encoder.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                self.encoder_factors.append(factor)
                factor *= 2
                skips.append(channels)

        self.middle_factor = factor
        self.middle = nn.ModuleList(
            [
                Block(SpadeResBlock(channels, channels, time_channels, config), transformer(channels)),
                Block(SpadeResBlock(channels, channels, time_channels, config)),
            ]
        )

        self.decoder = nn.ModuleList()
        self.decoder_factors: list[int] = []
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            width = multiplier * config.channels
            for i in range(config.res_blocks + 1):
                attend, last = factor in config.attention_at, i == config.res_blocks
                res = SpadeResBlock(channels + skips.pop(), width, time_channels, config)
                up = Upsample(width) if level > 0 and last else None
                self.decoder.append(Block(res, transformer(width) if attend else None, up))
                self.decoder_factors.append(factor)
                channels = width
            if level > 0:
                factor //= 2

        self.norm_out = nn.GroupNorm(config.groups, channels, eps=1e-5)
        self.conv_out = _zero(nn.Conv2d(channels, latent_channels, 3, padding=1))

    def condition(self, style: Tensor, one_hot: Tensor, size: tuple[int, int]) -> Conditioning:
        """style (B, K, code channels), one_hot (B, K, H, W); `size` is (h, w) of the latents."""
        masks = {
            factor: F.interpolate(one_hot, (size[0] // factor, size[1] // factor), mode=self.config.mask_resize)
            for factor in {*self.encoder_factors, self.middle_factor, *self.decoder_factors}
        }

        def each(blocks: nn.ModuleList, factors: list[int]) -> tuple[BlockCondition, ...]:
            return tuple(
                block.condition(style, masks[factor]) if isinstance(block, Block) else BlockCondition()
                for block, factor in zip(blocks, factors, strict=True)
            )

        return Conditioning(
            encoder=each(self.encoder, self.encoder_factors),
            middle=each(self.middle, [self.middle_factor] * len(self.middle)),
            decoder=each(self.decoder, self.decoder_factors),
        )

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """x_t (B, C, h, w), t (B,) in 0 .. T - 1 -> predicted noise, or v, (B, C, h, w)."""
        time = F.silu(self.time(timestep_embedding(t, self.config.channels)))
        x = self.stem(x_t)
        skips = [x]
        for block, condition in zip(self.encoder, conditioning.encoder, strict=True):
            x = self._run(block, x, time, condition) if isinstance(block, Block) else block(x)
            skips.append(x)
        for block, condition in zip(self.middle, conditioning.middle, strict=True):
            x = self._run(block, x, time, condition)
        for block, condition in zip(self.decoder, conditioning.decoder, strict=True):
            x = self._run(block, torch.cat([x, skips.pop()], dim=1), time, condition)
        return self.conv_out(F.silu(self.norm_out(x)))

    def _run(self, block: nn.Module, x: Tensor, time: Tensor, condition: BlockCondition) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            again = checkpoint(block, x, time, condition, use_reentrant=False)
            assert isinstance(again, Tensor)
            return again
        return block(x, time, condition)
