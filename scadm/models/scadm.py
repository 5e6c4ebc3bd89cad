"""SCA-DM: style encoder and denoising U-Net as one model. Condition once, denoise many times.

Also the baseline SDM (Wang et al. 2022, Semantic Image Synthesis via Diffusion Models): SPADE in the middle and the
decoder of the same U-Net, self-attention, and no style; its guidance null is the dropped mask.
"""

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from scadm.config import ModelConfig
from scadm.faces import NUM_CLASSES
from scadm.models.style_encoder import NoStyle, StyleEncoder
from scadm.models.unet import Conditioning, UNet

LATENT_FACTOR = 4
"""Pixels of an image per latent cell, along a side."""


class SCADM(nn.Module):
    def __init__(self, config: ModelConfig, latent_channels: int) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = latent_channels
        self.style_encoder = StyleEncoder(config.style_encoder) if config.method == "sca-dm" else NoStyle()
        self.unet = UNet(config.unet, latent_channels, self.style_encoder.code_channels)

    def encode_style(self, image: Tensor, one_hot: Tensor) -> Tensor:
        """Style codes (B, K, code channels) of images (B, 3, H, W) in [-1, 1] and their masks (B, K, H, W)."""
        _require_multi_hot(one_hot)
        if image.shape[0] != one_hot.shape[0] or image.shape[-2:] != one_hot.shape[-2:] or image.shape[1] != 3:
            raise ValueError(
                f"image has shape {tuple(image.shape)} and its mask {tuple(one_hot.shape)}, expected (B, 3, H, W) and "
                f"(B, {NUM_CLASSES}, H, W) with the same B, H and W"
            )
        return self.style_encoder(image, one_hot)

    def condition(self, style: Tensor, one_hot: Tensor) -> Conditioning:
        """All that does not depend on x_t and t, from style codes and the mask (B, K, H, W) to be imposed."""
        _require_multi_hot(one_hot)
        expected = (one_hot.shape[0], NUM_CLASSES, self.style_encoder.code_channels)
        if tuple(style.shape) != expected:
            raise ValueError(f"style has shape {tuple(style.shape)}, expected {expected} (B, classes, code channels)")
        size = (one_hot.shape[2] // LATENT_FACTOR, one_hot.shape[3] // LATENT_FACTOR)
        return self.unet.condition(style, one_hot, size)

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicted noise, or v, (B, C, h, w) for latents x_t at timesteps t (B,); all that a sampling step runs."""
        batch, height, width = conditioning.batch_and_size
        expected = (batch, self.latent_channels, height, width)
        if tuple(x_t.shape) != expected or tuple(t.shape) != (batch,):
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)} and t {tuple(t.shape)}, expected {expected} and ({batch},): what "
                f"the conditioning is for (masks of {LATENT_FACTOR} times the latents' side)"
            )
        return self.unet(x_t, t, conditioning)


def drop_condition(image: Tensor, one_hot: Tensor, no_reference: Tensor, null: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The style encoder's inputs and the imposed mask, with two of the conditions without a style applied.

    `no_reference` and `null` (B,) are booleans. No reference: a zero image with the true mask. Guidance null: a zero
    image and a zero mask, for the style encoder and for the U-Net. Returns (image, style mask, imposed mask).
    """
    keep_image = ~(no_reference | null)
    keep_mask = (~null).to(one_hot.dtype)
    image = image * keep_image.to(image.dtype)[:, None, None, None]
    one_hot = one_hot * keep_mask[:, None, None, None]
    return image, one_hot, one_hot


def to_one_hot(labels: Tensor) -> Tensor:
    """Label ids (B, H, W) -> float one-hot masks (B, K, H, W)."""
    if not torch.compiler.is_compiling() and (highest := int(labels.max())) >= NUM_CLASSES:
        raise ValueError(f"labels hold the id {highest}, expected 0 to {NUM_CLASSES - 1}")
    classes = torch.arange(NUM_CLASSES, device=labels.device)[None, :, None, None]
    return (labels[:, None] == classes).float()


def _require_multi_hot(mask: Tensor) -> None:
    if mask.ndim != 4 or mask.shape[1] != NUM_CLASSES:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, expected (B, {NUM_CLASSES}, H, W): one channel per class"
        )
    if torch.compiler.is_compiling() or mask.is_meta or isinstance(mask, FakeTensor):
        return  # there are no values to look at
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"mask has values from {mask.min().item():g} to {mask.max().item():g}, expected 0 and 1 only: multi-hot, "
            "at the image's resolution. Resizing is the model's own affair (model.unet.mask_resize)."
        )
