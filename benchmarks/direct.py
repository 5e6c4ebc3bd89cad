"""The network written the direct way, as the baseline of `benchmarks.model`.

Feature maps in NCHW, attention as softmax(Q K^T) V with all logits in memory, 19 masked tokens in the cross-attention,
gamma and beta by two convolutions, and everything that depends on mask and style computed again at every step. Names of
the weights are the published checkpoint's, so that its state dict loads as it is.

`fused=True` is the second baseline: the same, with fused scaled-dot-product attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from scadm.config import ModelConfig, StyleEncoderConfig, UNetConfig
from scadm.faces import NUM_CLASSES as K
from scadm.models.unet import timestep_embedding

HIDDEN = -3.4e38
"""The logit of a masked token: where all are masked, all weigh the same."""


class SpadeNorm(nn.Module):
    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.param_free_norm = nn.GroupNorm(config.groups, channels, eps=1e-5, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(K, config.spade_channels, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(config.spade_channels, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(config.spade_channels, channels, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.mlp_shared(F.interpolate(mask, x.shape[2:], mode="nearest"))
        return self.param_free_norm(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        norms = (nn.GroupNorm(config.groups, width, eps=1e-5) for width in (inputs, outputs))
        self.in_layers = nn.Sequential(next(norms), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, outputs))
        self.out_layers = nn.Sequential(
            next(norms), nn.SiLU(), nn.Dropout(config.dropout), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        h = self.in_layers(x) + rearrange(self.emb_layers(emb), "b c -> b c 1 1")
        return self.skip_connection(x) + self.out_layers(h)


class SpadeResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.in_norm = SpadeNorm(inputs, config)
        self.in_layers = nn.Sequential(nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, outputs))
        self.out_norm = SpadeNorm(outputs, config)
        self.out_layers = nn.Sequential(
            nn.SiLU(), nn.Dropout(config.dropout), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        h = self.in_layers(self.in_norm(x, mask)) + rearrange(self.emb_layers(emb), "b c -> b c 1 1")
        return self.skip_connection(x) + self.out_layers(self.out_norm(h, mask))


class Attention(nn.Module):
    """Self-attention, or with a context cross-attention that the mask restricts."""

    def __init__(self, channels: int, context: int, head_channels: int, fused: bool) -> None:
        super().__init__()
        self.head_channels, self.fused = head_channels, fused
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, h w, C), context (B, L, C'), mask (B, h w, L) or None -> (B, h w, C)."""
        q, k, v = (
            rearrange(tokens, "b l (h d) -> b h l d", d=self.head_channels)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        if self.fused and mask is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            logits = q @ k.transpose(2, 3) * self.head_channels**-0.5
            if mask is not None:
                logits = logits * rearrange(mask, "b l k -> b 1 l k")
                logits = logits.masked_fill(logits == 0, HIDDEN)
            out = logits.softmax(dim=-1) @ v
        return self.to_out(rearrange(out, "b h l d -> b l (h d)"))


class GEGLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, context: int, config: UNetConfig, fused: bool) -> None:
        super().__init__()
        self.attn1 = Attention(channels, channels, config.head_channels, fused)
        self.ff = FeedForward(channels)
        self.attn2 = Attention(channels, context, config.head_channels, fused)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, style: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm1(x)
        x = self.attn1(h, h) + x
        x = self.attn2(self.norm2(x), style, mask) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context: int, config: UNetConfig, fused: bool) -> None:
        super().__init__()
        self.masked = config.mask_attention == "hard"
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context, config, fused)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        size = x.shape[2:]
        pixels = rearrange(F.interpolate(mask, size, mode="nearest"), "b k h w -> b (h w) k") if self.masked else None
        tokens = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        tokens = self.transformer_blocks[0](tokens, style, pixels)
        return self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=size[0])) + x


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stem(nn.Conv2d):
    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return super().forward(x)


class DirectUNet(nn.Module):
    def __init__(self, config: UNetConfig, latent_channels: int, context: int, fused: bool) -> None:
        super().__init__()
        self.channels = config.channels
        self.time_embed = nn.Sequential(
            nn.Linear(config.channels, 4 * config.channels),
            nn.SiLU(),
            nn.Linear(4 * config.channels, 4 * config.channels),
        )
        widths = [config.channels * multiplier for multiplier in config.multipliers]

        def attended(width: int, factor: int) -> list[nn.Module]:
            return [SpatialTransformer(width, context, config, fused)] if factor in config.attention_at else []

        channels, skips = config.channels, [config.channels]
        blocks: list[list[nn.Module]] = [[Stem(latent_channels, channels, 3, padding=1)]]
        for level, width in enumerate(widths):
            for _ in range(config.res_blocks):
                blocks.append([ResBlock(channels, width, config), *attended(width, 2**level)])
                channels = width
                skips.append(channels)
            if level + 1 < len(widths):
                blocks.append([Downsample(channels)])
                skips.append(channels)
        self.input_blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.middle_block = nn.ModuleList(
            [
                SpadeResBlock(channels, channels, config),
                SpatialTransformer(channels, context, config, fused),
                SpadeResBlock(channels, channels, config),
            ]
        )
        blocks = []
        for level, width in reversed(list(enumerate(widths))):
            for i in range(config.res_blocks + 1):
                block = [SpadeResBlock(channels + skips.pop(), width, config), *attended(width, 2**level)]
                if level > 0 and i == config.res_blocks:
                    block.append(Upsample(width))
                blocks.append(block)
                channels = width
        self.output_blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, channels, eps=1e-5),
            nn.SiLU(),
            nn.Conv2d(channels, latent_channels, 3, padding=1),
        )

    def forward(self, x_t: Tensor, t: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        """x_t (B, C, h, w), t (B,), style (B, K, S), mask (B, K, H, W) -> predicted noise (B, C, h, w)."""
        emb = self.time_embed(timestep_embedding(t, self.channels))
        x, skips = x_t, []
        for block in self.input_blocks:
            x = _through(block, x, emb, style, mask)
            skips.append(x)
        x = _through(self.middle_block, x, emb, style, mask)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, skips.pop()], dim=1), emb, style, mask)
        return self.out(x)


def _through(block: Any, x: Tensor, *conditions: Tensor) -> Tensor:
    for layer in block:
        x = layer(x, *conditions)
    return x


def _convolution(inputs: int, outputs: int, stride: int = 1, groups: int = K) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups), nn.GroupNorm(K, outputs), nn.ReLU()]


class DirectStyleEncoder(nn.Module):
    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.style_channels = config.style_channels
        widths = [K * config.features * 2**i for i in range(config.downsamplings + 1)]
        self.Encoder = nn.ModuleDict({"first_layer": nn.Sequential(*_convolution(3, widths[0], groups=1))})
        self.Decoder, self.out = nn.ModuleDict(), nn.ModuleDict()
        for i in range(config.downsamplings):
            self.Encoder[f"enc_layer_{i}"] = nn.Sequential(*_convolution(widths[i], widths[i + 1], stride=2))
        for i in range(config.scales):
            width = widths[config.downsamplings - 1 - i]
            grown = nn.Upsample(scale_factor=2, mode="bilinear")
            self.Decoder[f"dec_layer_{i}"] = nn.Sequential(grown, *_convolution(width * (2 if i == 0 else 4), width))
            codes = nn.Conv1d(width, K * config.style_channels, 1, groups=K)
            self.out[f"out_{i}"] = nn.Sequential(codes, nn.Tanh())

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1], mask (B, K, H, W) -> style codes (B, K, S)."""
        x, skips = image, []
        for layer in self.Encoder.values():
            x = layer(x)
            skips.append(x)
        skips.pop()
        codes = []
        for i, (layer, out) in enumerate(zip(self.Decoder.values(), self.out.values(), strict=True)):
            if i > 0:
                x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x)
            resized = F.interpolate(mask, x.shape[2:], mode="nearest")
            repeated = repeat(resized, "b k h w -> b (k c) h w", c=x.shape[1] // K)
            pooled = (x * repeated).sum(dim=(2, 3)) / (repeated.sum(dim=(2, 3)) + 1e-5)
            codes.append(rearrange(out(rearrange(pooled, "b c -> b c 1")), "b (k s) 1 -> b k s", k=K))
        return torch.cat(codes, dim=2)


class Direct(nn.Module):
    """Style encoder and U-Net; `state_dict()` has the published names without their prefixes."""

    def __init__(self, config: ModelConfig, latent_channels: int, fused: bool = False) -> None:
        super().__init__()
        style = config.style_encoder
        self.style_encoder = DirectStyleEncoder(style)
        self.unet = DirectUNet(config.unet, latent_channels, style.scales * style.style_channels, fused)

    def forward(self, x_t: Tensor, t: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        return self.unet(x_t, t, self.style_encoder(image, mask), mask)
