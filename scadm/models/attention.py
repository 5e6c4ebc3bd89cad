"""Spatial transformer with mask-conditioned cross-attention (Section 3.3, Eq. 8).

The context holds one token per class: that part's style code. In the form `hard` a pixel sees its own part's token
alone, so the softmax over that one token is 1 whatever the query, and the attention's output is a function of the
mask and the codes only: it is computed once per image (`MaskedCrossAttention.condition`), not at every step.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scadm.faces import NUM_CLASSES as K

MaskAttention = Literal["hard", "soft", "none"]


class CrossCondition(NamedTuple):
    """What cross-attention needs at every step and does not depend on x_t or t.

    Form `hard`: `output` (B, h w, C). Forms `soft` and `none`: keys and values (B, heads, K, d) and, for `soft`, the
    mask (B, 1, h w, K) that multiplies the logits.
    """

    output: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None


class SelfAttention(nn.Module):
    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        return self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)"))


class MaskedCrossAttention(nn.Module):
    """Pixels attend to the K style codes, restricted by the mask in one of three forms.

    hard: the authors' code. A pixel's weights are its mask, normalised; where the mask is zero all tokens weigh 1/K.
        A pixel of several classes (a multi-hot or an area mask) mixes their values by its mask, so that the output
        stays independent of x_t and t; the authors' code, which is only ever given one class a pixel, would weigh
        them by query and key.
    soft: Eq. 8 as printed. The mask multiplies the logits, so a masked class still weighs exp(0).
    none: the ablation, plain cross-attention.
    """

    def __init__(self, channels: int, code_channels: int, head_channels: int, form: MaskAttention) -> None:
        super().__init__()
        self.form = form
        self.heads = channels // head_channels
        self.norm = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(code_channels, channels, bias=False)
        self.to_v = nn.Linear(code_channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        if form == "hard":
            # Never used in this form. Kept, frozen, for the published checkpoint's layout.
            for module in (self.norm, self.to_q, self.to_k):
                module.requires_grad_(False)

    def condition(self, style: Tensor, mask: Tensor) -> CrossCondition:
        """style (B, K, code channels), mask (B, K, h, w) at the size of the feature map."""
        values = self.to_v(style)
        pixels = rearrange(mask, "b k h w -> b (h w) k")
        if self.form == "hard":
            total = pixels.sum(dim=2, keepdim=True)
            weights = torch.where(total > 0, pixels / total.clamp(min=1e-6), 1 / K)
            # The weights of a pixel sum to 1, so projecting K tokens and mixing is projecting the mixed pixels.
            return CrossCondition(output=weights.to(values.dtype) @ self.to_out(values))
        split = "b k (h d) -> b h k d"
        return CrossCondition(
            keys=rearrange(self.to_k(style), split, h=self.heads),
            values=rearrange(values, split, h=self.heads),
            mask=rearrange(pixels, "b l k -> b 1 l k") if self.form == "soft" else None,
        )

    def forward(self, x: Tensor, condition: CrossCondition) -> Tensor:
        """x (B, h w, C) -> the residual's increment (B, h w, C)."""
        if condition.output is not None:
            return condition.output
        assert condition.keys is not None and condition.values is not None
        q = rearrange(self.to_q(self.norm(x)), "b l (h d) -> b h l d", h=self.heads)
        if condition.mask is None:
            out = F.scaled_dot_product_attention(q, condition.keys, condition.values)
        else:  # Eq. 8: softmax(M * Q K^T / sqrt(d)) V
            logits = q @ condition.keys.transpose(-1, -2) * q.shape[-1] ** -0.5
            out = (logits * condition.mask).softmax(dim=-1) @ condition.values
        return self.to_out(rearrange(out, "b h l d -> b l (h d)"))


class FeedForward(nn.Module):
    """GEGLU with a factor of 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, 8 * channels)
        self.to_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.project(x).chunk(2, dim=-1)
        return self.to_out(value * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """Self-attention, mask-conditioned cross-attention and feed-forward over the pixels of a feature map.

    Without style codes (`code_channels` 0, SDM) there is nothing to attend to, and no cross-attention.
    """

    def __init__(self, channels: int, code_channels: int, head_channels: int, groups: int, form: MaskAttention) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)  # published as 1x1 convolutions, which is the same
        self.self_norm = nn.LayerNorm(channels)
        self.self_attention = SelfAttention(channels, head_channels)
        self.cross_attention = (
            MaskedCrossAttention(channels, code_channels, head_channels, form) if code_channels else None
        )
        self.feed_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels)
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def condition(self, style: Tensor, mask: Tensor) -> CrossCondition:
        """As of `MaskedCrossAttention`."""
        return CrossCondition() if self.cross_attention is None else self.cross_attention.condition(style, mask)

    def forward(self, x: Tensor, condition: CrossCondition) -> Tensor:
        """x (B, C, h, w) -> (B, C, h, w)."""
        height = x.shape[2]
        # In channels-last memory the two rearrangements are views.
        tokens = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        tokens = tokens + self.self_attention(self.self_norm(tokens))
        if self.cross_attention is not None:
            tokens = tokens + self.cross_attention(tokens, condition)
        tokens = tokens + self.feed_forward(self.feed_norm(tokens))
        return x + rearrange(self.proj_out(tokens), "b (h w) c -> b c h w", h=height)
