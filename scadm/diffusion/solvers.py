"""Sampling: DDIM through diffusers' scheduler, with the published spacing of timesteps."""

from collections.abc import Callable

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from scadm.config import DiffusionConfig, SamplingConfig
from scadm.diffusion.noise import SAMPLING, normal


def ddim_scheduler(diffusion: DiffusionConfig, steps: int) -> DDIMScheduler:
    """Timesteps range(0, T, T // steps) + 1, from the last to the first; the last step goes to alpha_bar_0."""
    if steps > diffusion.timesteps:
        raise ValueError(f"sampling.steps is {steps}, expected at most diffusion.timesteps {diffusion.timesteps}")
    first = diffusion.timesteps // steps * (steps - 1)
    if first < 0.85 * diffusion.timesteps and diffusion.timesteps % steps:
        raise ValueError(
            f"sampling.steps {steps} would start at timestep {first + 1} of {diffusion.timesteps}, from noise that "
            "this timestep never sees. Choose a divisor of the timesteps, or a smaller number."
        )
    scheduler = DDIMScheduler(
        num_train_timesteps=diffusion.timesteps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1 if steps < diffusion.timesteps else 0,  # T steps take every timestep, and there is no T + 1st
        timestep_spacing="leading",
        prediction_type="epsilon" if diffusion.prediction == "epsilon" else "v_prediction",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int, int],
    seeds: list[int],
    diffusion: DiffusionConfig,
    sampling: SamplingConfig,
    device: torch.device,
) -> Tensor:
    """Latents x_0 (B, *shape) as the model sees them, one image for each seed, whatever the batch it is in.

    `denoise(x_t, t)` is the guided prediction (noise or v) for x_t (B, *shape) and t (B,).
    """
    scheduler = ddim_scheduler(diffusion, sampling.steps)
    # With eta above 0 each step takes noise of its own: row 0 is x_T, row i the noise of step i.
    rows = 1 + (sampling.steps if sampling.eta > 0 else 0)
    noise = normal(0, SAMPLING, seeds, (rows, *shape)).to(device)
    x = noise[:, 0]
    for i, t in enumerate(scheduler.timesteps):
        eps = denoise(x, torch.full((len(seeds),), int(t), device=device))
        (x, *_) = scheduler.step(
            eps.float(),
            int(t),
            x,
            eta=sampling.eta,
            variance_noise=noise[:, 1 + i] if sampling.eta > 0 else None,
            return_dict=False,
        )
    return x
