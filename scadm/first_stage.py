"""The first stage, images <-> latents, behind one protocol: the small autoencoder, a pretrained VQ-f4, or none.

Three representations are kept apart: pixels, latents as the autoencoder gives them (what the shards store), and
latents as the model sees them (`LatentScale`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from scadm.config import AutoencoderConfig
from scadm.files.manifest import require_same
from scadm.files.weights import WEIGHTS, fingerprint, load_into, read_config, save_module
from scadm.models.autoencoder import VQAutoencoder

if TYPE_CHECKING:  # imported where it is used: it takes seconds, and the small autoencoder does without
    from diffusers.models.autoencoders.vq_model import VQModel


class FirstStage(Protocol):
    """Images (B, 3, H, W) in [-1, 1] <-> latents (B, C, H / 4, W / 4), before quantisation; decoding quantises."""

    @property
    def latent_channels(self) -> int: ...

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


class VQF4(nn.Module):
    """The published first stage as diffusers' VQModel."""

    def __init__(self, model: "VQModel") -> None:
        super().__init__()
        factor = 2 ** (len(model.config["block_out_channels"]) - 1)
        if factor != 4:
            raise ValueError(f"the VQModel downsamples by {factor}, expected 4 (three entries in block_out_channels)")
        self.model = model

    @classmethod
    def open(cls, folder: Path) -> "VQF4":
        """From a folder in diffusers' own form; ValueError where it is none."""
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"autoencoder.weights is {str(folder)!r}, expected a folder with a diffusers VQModel "
                "(config.json and diffusion_pytorch_model.safetensors). Put the pretrained VQ-f4 there."
            )
        from diffusers.models.autoencoders.vq_model import VQModel

        return cls(VQModel.from_pretrained(str(folder), local_files_only=True))

    @property
    def latent_channels(self) -> int:
        return self.model.config["latent_channels"]

    def encode(self, image: Tensor) -> Tensor:
        return self.model.encode(image).latents

    def ids(self, latent: Tensor) -> Tensor:
        """Index of the nearest code of each cell, (B, h, w)."""
        _, _, (_, _, ids) = self.model.quantize(latent)
        return ids.view(latent.shape[0], *latent.shape[2:])

    def decode(self, latent: Tensor) -> Tensor:
        # Quantises first.
        (image, *_) = self.model.decode(latent, return_dict=False)
        return image


class Pixels(nn.Module):
    """No first stage: the pixels of each 4 x 4 cell as its channels, so that diffusion is in pixel space."""

    latent_channels = 3 * 4**2

    def encode(self, image: Tensor) -> Tensor:
        return rearrange(image, "b c (h i) (w j) -> b (c i j) h w", i=4, j=4)

    def decode(self, latent: Tensor) -> Tensor:
        return rearrange(latent, "b (c i j) h w -> b c (h i) (w j)", i=4, j=4)


class Loaded(NamedTuple):
    model: FirstStage
    fingerprint: str


def save_small(folder: Path, model: VQAutoencoder) -> str:
    return save_module(folder, model, {"kind": "small", **model.config.model_dump(mode="json")})


def save_pixels(folder: Path) -> str:
    return save_module(folder, Pixels(), {"kind": "pixels"})


def import_vq_f4(folder: Path, pretrained: VQF4 | Path) -> str:
    """Copy a pretrained VQ-f4 (loaded, or a folder in diffusers' form) into `folder`; returns its fingerprint."""
    model = pretrained if isinstance(pretrained, VQF4) else VQF4.open(pretrained)
    model.model.save_pretrained(folder / "vq-f4", safe_serialization=True)
    return save_module(folder, nn.Module(), {"kind": "vq-f4", "weights": fingerprint({}, model.state_dict())})


def load_first_stage(folder: Path, device: torch.device | str = "cpu") -> Loaded:
    """Load what the autoencoder stage has written, ready for inference.

    Raises ValueError if the folder is incomplete, or its weights are not those that its fingerprint was taken of.
    """
    config, mark = read_config(folder)
    if config["kind"] == "small":
        model = VQAutoencoder(AutoencoderConfig.model_validate({k: v for k, v in config.items() if k != "kind"}))
        load_into(model, folder / WEIGHTS)
        found = fingerprint(config, model.state_dict())
    elif config["kind"] == "pixels":
        model, found = Pixels(), fingerprint(config, {})
    else:
        model = VQF4.open(folder / "vq-f4")
        found = fingerprint(config | {"weights": fingerprint({}, model.state_dict())}, {})
    # Shards, checkpoints and registered models name their autoencoder by this.
    require_same(
        f"the fingerprint of the weights in {folder}",
        found,
        mark,
        "They were changed or damaged after they had been written, and latents made with others would decode to "
        "other faces: delete the folder and run `dvc repro`, which makes it again.",
    )
    return Loaded(model.eval().requires_grad_(False).to(device), mark)


class LatentScale(NamedTuple):
    """Between stored latents and the latents that the model sees: x = (z - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_model(self, stored: Tensor) -> Tensor:
        return (stored - self._column(self.mean, stored)) / self._column(self.std, stored)

    def to_stored(self, seen: Tensor) -> Tensor:
        return seen * self._column(self.std, seen) + self._column(self.mean, seen)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return rearrange(torch.tensor(values, dtype=like.dtype, device=like.device), "c -> c 1 1")

    @classmethod
    def identity(cls, channels: int) -> "LatentScale":
        return cls((0.0,) * channels, (1.0,) * channels)
