"""What is minimised: E w_t || target - eps_theta(x_t, t, style, mask) ||^2, with both conditions dropped at times.

The target is the noise eps, as in the paper, or v (`Schedule.target`). The weight w_t is 1, as in the paper, or
min-SNR's (`Schedule.loss_weight`).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scadm.config import DiffusionConfig
from scadm.data.loader import Batch
from scadm.diffusion.noise import DROP, NOISE, TIMESTEP, VALIDATION, generator, normal
from scadm.diffusion.schedule import Schedule
from scadm.models.scadm import SCADM, drop_condition, to_one_hot
from scadm.models.unet import Conditioning
from scadm.pixels import to_signed


class Draws(NamedTuple):
    """The random numbers of a batch, each a function of the seed and the sample's global position."""

    t: Tensor
    noise: Tensor
    no_reference: Tensor
    null: Tensor

    def to(self, device: torch.device) -> "Draws":
        return Draws(*(tensor.to(device) for tensor in self))


def draw(seed: int, positions: list[int], shape: tuple[int, ...], config: DiffusionConfig) -> Draws:
    """Timesteps (B,), noise (B, *shape) and which conditions are dropped, for samples at global positions."""
    t = [int(generator(seed, TIMESTEP, p).integers(config.timesteps)) for p in positions]
    uniform = np.stack([generator(seed, DROP, p).random(2) for p in positions])
    return Draws(
        t=torch.tensor(t),
        noise=normal(seed, NOISE, positions, shape),
        no_reference=torch.from_numpy(uniform[:, 0] < config.no_reference),
        null=torch.from_numpy(uniform[:, 1] < config.guidance_null),
    )


def fixed_draws(seed: int, positions: list[int], count: int, shape: tuple[int, ...], config: DiffusionConfig) -> Draws:
    """What measures a loss that can be compared: nothing is dropped, and positions 0 .. count - 1 cover 0 .. T - 1."""
    kept = torch.zeros(len(positions), dtype=torch.bool)
    return Draws(
        t=torch.tensor([int((p + 0.5) * config.timesteps / count) for p in positions]),
        noise=normal(seed, VALIDATION, positions, shape),
        no_reference=kept,
        null=kept,
    )


class TrainingModule(nn.Module):
    """The one module that DDP wraps: its forward conditions, denoises and returns the loss of each sample."""

    def __init__(self, model: SCADM, config: DiffusionConfig) -> None:
        super().__init__()
        self.model = model
        self.schedule = Schedule(config)

    def forward(self, x_0: Tensor, image: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """x_0 (B, C, h, w) as the model sees it, image in [-1, 1], labels (B, H, W) -> losses (B,), float32."""
        image, style_mask, mask = drop_condition(image, to_one_hot(labels), draws.no_reference, draws.null)
        return self.loss(x_0, draws, self.model.condition(self.model.encode_style(image, style_mask), mask))

    def loss(self, x_0: Tensor, draws: Draws, conditioning: Conditioning) -> Tensor:
        """Of each sample under a conditioning that is given: (B,), float32. What `draws` drops is not looked at."""
        x_t = self.schedule.add_noise(x_0, draws.noise, draws.t)
        prediction = self.model.denoise(x_t, draws.t, conditioning)
        target = self.schedule.target(x_0, draws.noise, draws.t)
        return self.schedule.loss_weight(draws.t) * (prediction.float() - target).square().mean(dim=(1, 2, 3))


def device_batch(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """On the device: latents (B, C, h, w) as stored but float32, images (B, 3, H, W) in [-1, 1], labels (B, H, W)."""
    latent = torch.from_numpy(batch.latent).to(device).float()
    return latent, to_signed(batch.image, device), torch.from_numpy(batch.labels).to(device)
