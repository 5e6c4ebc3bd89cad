"""Sampling: DDIM and DPM-Solver++ through diffusers' schedulers, at timesteps that are spaced in one of three ways."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scadm.config import DiffusionConfig, SamplingConfig
from scadm.diffusion.noise import SAMPLING, normal
from scadm.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

Denoise = Callable[[Tensor, int], Tensor]
"""The guided prediction (noise or v) for x_t (B, C, h, w), all of it at the timestep t."""


def timesteps(diffusion: DiffusionConfig, sampling: SamplingConfig) -> list[int]:
    """Where the network is asked, from high to low. Each step goes to the next timestep, the last one to alpha_bar_0.

    published: range(0, T, T // steps) + 1, as the authors' code.
    trailing: T - 1, T - 1 - T / steps, ... (Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps are
    Flawed, Table 2).
    logsnr: uniform in lambda = log(alpha_bar / (1 - alpha_bar)) / 2 from T - 1 to 0 (Lu et al. 2022, DPM-Solver), as
    whole timesteps.

    Raises ValueError for more steps than timesteps, and where the published rule would start far from pure noise.
    """
    T, steps = diffusion.timesteps, sampling.steps
    if steps > T:
        raise ValueError(f"sampling.steps is {steps}, expected at most diffusion.timesteps {T}")
    if sampling.spacing == "trailing":
        return [round(T * k / steps) - 1 for k in range(steps, 0, -1)]
    if sampling.spacing == "logsnr":
        lambdas = torch.logit(Schedule(diffusion).alpha_bar.double()).numpy() / 2
        wanted = np.linspace(lambdas[-1], lambdas[0], steps + 1)[:-1]
        nearest = np.interp(wanted, lambdas[::-1], np.arange(T)[::-1]).round().astype(int)
        # Where lambda moves more in one timestep than in a step, first of all near t = 0, take every timestep once.
        done, left = np.arange(steps), np.arange(steps)[::-1]
        apart = np.maximum.accumulate((nearest - left)[::-1])[::-1] + left
        return np.minimum(apart, T - 1 - done).tolist()
    first = T // steps * (steps - 1)
    if first < 0.85 * T and T % steps:
        raise ValueError(
            f"sampling.steps {steps} would start at timestep {first + 1} of {T}, from noise that this timestep never "
            "sees. Choose a divisor of the timesteps, a smaller number, or sampling.spacing trailing or logsnr."
        )
    offset = 1 if steps < T else 0  # T steps take every timestep, and there is no T + 1st
    return [T // steps * k + offset for k in range(steps - 1, -1, -1)]


def _scheduler(
    diffusion: DiffusionConfig, sampling: SamplingConfig, chain: list[int]
) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """The solver on the short chain 0 .. steps, whose alpha_bar is that of the timesteps 0 and `chain`.

    As Nichol and Dhariwal 2021, Section 4. On the long chain diffusers' DDIM would take T // steps for the distance to
    the next timestep, whatever the timesteps are.
    """
    # Here, because most processes of a stage never sample, and the import takes seconds.
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    alpha_bar = Schedule(diffusion).alpha_bar.double()[[0, *reversed(chain)]]
    options = {
        "num_train_timesteps": len(alpha_bar),
        "trained_betas": (1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])).numpy(),
        "prediction_type": "epsilon" if diffusion.prediction == "epsilon" else "v_prediction",
    }
    if sampling.solver == "ddim":
        scheduler = DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1, **options
        )
        scheduler.set_timesteps(len(chain))
    else:
        # 2M: second order from the last two predictions of x_0. Its midpoint form came closer to the exact solution of
        # test_solvers.py than heun, which also divides by zero where a step has no length (T steps end with one). Below
        # 15 steps the last is of first order, as diffusers has it. sigma_min ends at alpha_bar_0, as DDIM does.
        scheduler = DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            lower_order_final=True,
            final_sigmas_type="sigma_min",
            **options,
        )
        scheduler.set_timesteps(timesteps=list(range(len(chain), 0, -1)))
    return scheduler


def solve(denoise: Denoise, noise: Tensor, diffusion: DiffusionConfig, sampling: SamplingConfig) -> Iterator[Tensor]:
    """The latents (B, C, h, w) after each step, in float32; the last are x_0.

    `noise` (B, rows, C, h, w): row 0 is x_T. With eta above 0, row i is the noise of step i = 1 .. steps.
    """
    chain = timesteps(diffusion, sampling)
    scheduler = _scheduler(diffusion, sampling, chain)
    x = noise[:, 0]
    for i, t in enumerate(chain):
        stochastic = {"eta": sampling.eta, "variance_noise": noise[:, 1 + i]} if sampling.eta > 0 else {}
        prediction = denoise(x, t).float()
        (x, *_) = scheduler.step(prediction, len(chain) - i, x, return_dict=False, **stochastic)
        yield x


def sample(
    denoise: Denoise,
    shape: tuple[int, int, int],
    seeds: list[int],
    diffusion: DiffusionConfig,
    sampling: SamplingConfig,
    device: torch.device,
) -> Tensor:
    """Latents x_0 (B, *shape) as the model sees them, one image for each seed, whatever the batch it is in."""
    rows = 1 + (sampling.steps if sampling.eta > 0 else 0)
    noise = normal(0, SAMPLING, seeds, (rows, *shape)).to(device)
    return deque(solve(denoise, noise, diffusion, sampling), maxlen=1).pop()
