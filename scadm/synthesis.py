"""The high-level API: reconstruct a face, swap parts, mix, interpolate, or let noise choose.

Images are uint8 RGB (B, H, W, 3), label maps uint8 (B, H, W), and every image has a seed of its own: it does not
depend on the batch that it is made in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from scadm import faces
from scadm.config import DiffusionConfig, ModelConfig, SamplingConfig
from scadm.diffusion.guidance import guide, is_guided
from scadm.diffusion.solvers import sample
from scadm.files.checkpoint import read_checkpoint
from scadm.files.manifest import require_same
from scadm.files.store import Store
from scadm.files.weights import load_state
from scadm.first_stage import FirstStage, LatentScale, load_first_stage
from scadm.models.scadm import LATENT_FACTOR, SCADM, to_one_hot
from scadm.models.unet import Conditioning
from scadm.pixels import Images, Labels, as_tensor, to_signed, to_stored
from scadm.precision import cast_layers, channels_last, mixed_precision, uses_bf16

GuidanceNull = Literal["encoded", "zero"]
"""The condition that Eq. 4 subtracts.

encoded: a zero image and a zero mask through the style encoder and SPADE, as training shows them. zero: zero codes and
a zero mask, which only the published checkpoint is sampled with.
"""

CHUNK = 8
"""Images that are sampled together. What the U-Net keeps of the masks is 120 MiB an image for the published model."""


def part_ids(parts: Sequence[str]) -> list[int]:
    """Class ids of part names; an unknown name raises ValueError."""
    for name in parts:
        if name not in faces.CLASS_ID:
            raise ValueError(f"unknown part {name!r}, expected some of {', '.join(faces.LABELS)}")
    return [faces.CLASS_ID[name] for name in parts]


@dataclass(frozen=True)
class Synthesiser:
    """A trained model with all that is needed to go from masks and references to images."""

    model: SCADM
    first_stage: FirstStage
    scale: LatentScale
    diffusion: DiffusionConfig
    sampling: SamplingConfig
    resolution: int
    device: torch.device
    guidance_null: GuidanceNull = "encoded"

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without gradients, in the precision of `sampling`."""
        with torch.inference_mode(), mixed_precision(self.sampling.precision, self.device)():
            yield

    def encode_style(self, images: Images, labels: Labels) -> Tensor:
        """Style codes (B, K, S) of faces. The code of a part that a face lacks says nothing: see `dress`."""
        return self._encode(to_signed(images).to(self.device), self._one_hot(labels))

    def no_reference(self, labels: Labels) -> Tensor:
        """Style codes (B, K, S) of masks alone: a zero image with the true mask, as part of the training saw it."""
        one_hot = self._one_hot(labels)
        return self._encode(torch.zeros(len(labels), 3, *one_hot.shape[2:], device=self.device), one_hot)

    def _encode(self, image: Tensor, one_hot: Tensor) -> Tensor:
        with self.inference():
            return self.model.encode_style(image, one_hot).float()

    def synthesise(self, style: Tensor, labels: Labels, seeds: Sequence[int], chunk: int = CHUNK) -> Images:
        """Images of the given masks with the given style codes (B, K, S), `chunk` of them at a time."""
        if not len(style) == len(labels) == len(seeds):
            raise ValueError(
                f"{len(style)} styles, {len(labels)} masks and {len(seeds)} seeds, expected as many of each"
            )
        mask = self._one_hot(labels)
        chunks = [slice(start, start + chunk) for start in range(0, len(seeds), chunk)]
        images = [self.decode(self.scale.to_stored(self.latents(style[c], mask[c], seeds[c]))) for c in chunks]
        return np.concatenate(images)

    def latents(self, style: Tensor, mask: Tensor, seeds: Sequence[int]) -> Tensor:
        """Latents (B, C, h, w) as the model sees them, of style codes (B, K, S) and one-hot masks (B, K, H, W)."""
        s, interval, T = self.sampling.guidance_scale, self.sampling.guidance_interval, self.diffusion.timesteps

        @cache
        def conditioning(guided: bool) -> Conditioning:
            if not guided:
                return self.model.condition(style, mask)
            # The guidance null in the same batch.
            nothing, null_style = torch.zeros_like(mask), torch.zeros_like(style)
            if self.guidance_null == "encoded":
                zero = torch.zeros(1, 3, *mask.shape[2:], device=self.device)
                null_style = self._encode(zero, nothing[:1]).expand_as(style)
            return self.model.condition(torch.cat([style, null_style]), torch.cat([mask, nothing]))

        def denoise(x_t: Tensor, t: int) -> Tensor:
            guided = s > 0 and is_guided(t, T, interval)
            rows = torch.cat([x_t, x_t]) if guided else x_t
            found = self.model.denoise(rows, torch.full((len(rows),), t, device=self.device), conditioning(guided))
            if not guided:
                return found
            eps, eps_null = found.chunk(2)
            return guide(eps, eps_null, s)

        side = self.resolution // LATENT_FACTOR
        shape = (self.first_stage.latent_channels, side, side)
        with self.inference():
            return sample(denoise, shape, list(seeds), self.diffusion, self.sampling, self.device)

    def decode(self, stored: Tensor) -> Images:
        """Images of stored latents (B, C, h, w)."""
        with self.inference():
            return to_stored(self.first_stage.decode(stored.to(self.device)).float())

    def round_trip(self, images: Images) -> Images:
        """Through the autoencoder and back: the ceiling of what any model on its latents can reach."""
        with self.inference():
            return self.decode(self.first_stage.encode(to_signed(images).to(self.device)))

    def reconstruct(self, images: Images, labels: Labels, seeds: Sequence[int]) -> Images:
        """Each face from its own mask and its own style codes."""
        return self.synthesise(self.encode_style(images, labels), labels, seeds)

    def dress(self, labels: Labels, references: Images, reference_labels: Labels, seeds: Sequence[int]) -> Images:
        """Each mask in the whole style of another face; parts that the reference lacks are as noise chooses."""
        style = torch.where(
            self._present(reference_labels),
            self.encode_style(references, reference_labels),
            self.no_reference(labels),
        )
        return self.synthesise(style, labels, seeds)

    def swap(
        self,
        images: Images,
        labels: Labels,
        references: Images,
        reference_labels: Labels,
        parts: Sequence[str],
        seeds: Sequence[int],
    ) -> Images:
        """Each face with the style of some parts from another face."""
        return self.interpolate(images, labels, references, reference_labels, parts, 1.0, seeds)

    def interpolate(
        self,
        images: Images,
        labels: Labels,
        references: Images,
        reference_labels: Labels,
        parts: Sequence[str],
        weight: float,
        seeds: Sequence[int],
    ) -> Images:
        """The codes of some parts moved from the face's own (weight 0) to the reference's (weight 1).

        A part that the reference lacks goes to what the mask alone suggests.
        """
        style = self.encode_style(images, labels).clone()
        target = torch.where(
            self._present(reference_labels),
            self.encode_style(references, reference_labels),
            self.no_reference(labels),
        )
        ids = part_ids(parts)
        style[:, ids] = torch.lerp(style[:, ids], target[:, ids], weight)
        return self.synthesise(style, labels, seeds)

    def mix(
        self,
        labels: Labels,
        references: dict[str, tuple[Images, Labels]],
        seeds: Sequence[int],
    ) -> Images:
        """Each part named in `references` styled after its own reference; all others as noise chooses."""
        style = self.no_reference(labels).clone()
        for part, (images, reference_labels) in references.items():
            (k,) = part_ids([part])
            found = self.encode_style(images, reference_labels)
            style[:, k] = torch.where(self._present(reference_labels), found, style)[:, k]
        return self.synthesise(style, labels, seeds)

    def random(self, labels: Labels, seeds: Sequence[int]) -> Images:
        """Faces for masks alone: noise chooses every style."""
        return self.synthesise(self.no_reference(labels), labels, seeds)

    def _present(self, labels: Labels) -> Tensor:
        """Which classes each mask shows, (B, K, 1)."""
        return rearrange(self._one_hot(labels).sum(dim=(2, 3)) > 0, "b k -> b k 1")

    def _one_hot(self, labels: Labels) -> Tensor:
        if labels.ndim != 3 or labels.shape[1:] != (self.resolution, self.resolution):
            raise ValueError(
                f"label maps have shape {labels.shape}, expected (B, {self.resolution}, {self.resolution}): the "
                "resolution that this model was trained at. Resize them, nearest neighbour."
            )
        return to_one_hot(as_tensor(labels).to(self.device))


def load_synthesiser(weights: str, autoencoder: Path, sampling: SamplingConfig, device: torch.device) -> Synthesiser:
    """From a run's `final` checkpoint (path or URI) and the autoencoder whose latents it was trained on.

    Raises ValueError where either is damaged or incomplete, or where the two do not belong together.
    """
    tensors, config = read_checkpoint(Store(weights), ["weights"])
    first_stage = load_first_stage(autoencoder, device)
    require_same(
        f"the fingerprint of the autoencoder in {autoencoder}",
        first_stage.fingerprint,
        config["autoencoder"],
        f"The weights in {weights} were trained on another autoencoder's latents; give them theirs.",
    )
    model = SCADM(ModelConfig.model_validate(config["model"]), config["latent_channels"])
    load_state(model, tensors["weights"], weights)
    channels_last(model.eval().requires_grad_(False).to(device))
    if uses_bf16(sampling.precision, device):
        cast_layers(model, torch.bfloat16)
    return Synthesiser(
        model=model,
        first_stage=first_stage.model,
        scale=LatentScale(tuple(config["latent_mean"]), tuple(config["latent_std"])),
        diffusion=DiffusionConfig.model_validate(config["diffusion"]),
        sampling=sampling,
        resolution=config["resolution"],
        device=device,
        guidance_null=config["guidance_null"],
    )
