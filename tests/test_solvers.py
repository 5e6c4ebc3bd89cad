"""DDIM sampling."""

import pytest
import tiny
import torch
from torch import Tensor

from scadm.config import SamplingConfig
from scadm.diffusion.guidance import guide
from scadm.diffusion.noise import SAMPLING, normal
from scadm.diffusion.schedule import Schedule
from scadm.diffusion.solvers import ddim_scheduler, sample

DIFFUSION = tiny.DIFFUSION.model_copy(update={"timesteps": 1000})
SHAPE = (3, 4, 4)
CPU = torch.device("cpu")
ALPHA_BAR = Schedule(DIFFUSION).alpha_bar


def config(steps: int, eta: float = 0.0) -> SamplingConfig:
    return SamplingConfig(steps=steps, eta=eta, guidance_scale=0.0)


@pytest.mark.parametrize("steps", [1, 4, 10, 20, 50, 100, 200, 500])
def test_timesteps_are_spaced_as_published(steps: int) -> None:
    published = [t + 1 for t in range(0, 1000, 1000 // steps)]
    assert ddim_scheduler(DIFFUSION, steps).timesteps.tolist() == published[::-1]


@pytest.mark.parametrize("steps", [7, 30, 999, 1000])
def test_any_number_of_steps_stays_within_the_schedule(steps: int) -> None:
    timesteps = ddim_scheduler(DIFFUSION, steps).timesteps.tolist()
    assert len(timesteps) == steps
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert timesteps[-1] in (0, 1)
    assert timesteps[0] < 1000


@pytest.mark.parametrize("steps", [3, 600, 1001])
def test_a_number_of_steps_that_cannot_be_spaced_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"sampling.steps.* {steps}"):
        ddim_scheduler(DIFFUSION, steps)


def test_the_schedule_is_the_training_s() -> None:
    scheduler = ddim_scheduler(DIFFUSION, 10)
    torch.testing.assert_close(scheduler.alphas_cumprod, ALPHA_BAR, rtol=1e-4, atol=0)
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0], "the last step goes to alpha_bar_0"


def test_as_many_steps_as_timesteps_can_be_sampled() -> None:
    small = tiny.DIFFUSION.model_copy(update={"timesteps": 20})
    assert sample(wave, SHAPE, [1], small, config(20), CPU).isfinite().all()


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sampling.steps is 1001, expected at most diffusion.timesteps 1000"):
        ddim_scheduler(DIFFUSION, 1001)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("steps", [5, 20])
def test_a_perfect_denoiser_finds_the_latent(steps: int, eta: float) -> None:
    x_0 = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))

    def perfect(x_t: Tensor, t: Tensor) -> Tensor:
        kept = ALPHA_BAR[t][:, None, None, None]
        return (x_t - kept.sqrt() * x_0) / (1 - kept).sqrt()

    found = sample(perfect, SHAPE, [1, 2], DIFFUSION, config(steps, eta), CPU)
    if eta == 0:  # the noise stays what x_T makes it, and at alpha_bar_0 a little of it is left
        noise = normal(0, SAMPLING, [1, 2], (1, *SHAPE))[:, 0]
        kept = ALPHA_BAR[ddim_scheduler(DIFFUSION, steps).timesteps[0]]
        eps = (noise - kept.sqrt() * x_0) / (1 - kept).sqrt()
        expected = ALPHA_BAR[0].sqrt() * x_0 + (1 - ALPHA_BAR[0]).sqrt() * eps
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found - x_0).abs().max() < 4.5 * (1 - ALPHA_BAR[0]).sqrt()


def wave(x_t: Tensor, t: Tensor) -> Tensor:
    """Some denoiser that depends on both of its arguments."""
    return torch.sin(x_t + t[:, None, None, None] / 100)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_an_image_does_not_depend_on_its_batch(eta: float) -> None:
    together = sample(wave, SHAPE, [3, 1, 4, 1], DIFFUSION, config(5, eta), CPU)
    for row, seed in enumerate([3, 1, 4, 1]):
        alone = sample(wave, SHAPE, [seed], DIFFUSION, config(5, eta), CPU)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)
    assert torch.equal(together[1], together[3])
    assert (together[0] - together[1]).abs().max() > 0.1


def test_eta_adds_noise_to_the_same_beginning() -> None:
    seen: list[Tensor] = []

    def spy(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t.clone())
        return wave(x_t, t)

    results = [sample(spy, SHAPE, [5], DIFFUSION, config(4, eta), CPU) for eta in (0.0, 1.0)]
    assert torch.equal(seen[0], seen[4])
    assert not torch.equal(seen[1], seen[5])
    assert not torch.equal(*results)


def test_a_half_precision_denoiser_is_sampled_in_float32() -> None:
    found = sample(lambda x, t: wave(x, t).bfloat16(), SHAPE, [1], DIFFUSION, config(4), CPU)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("s", [0.0, 1.2])
def test_predicting_v_samples_what_predicting_the_noise_samples(s: float) -> None:
    """v is the noise but for a factor and a shift, so guidance and solver must end at the same latent."""
    in_v = DIFFUSION.model_copy(update={"prediction": "v"})

    def as_v(eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        kept = ALPHA_BAR[t][:, None, None, None]
        return (eps - (1 - kept).sqrt() * x_t) / kept.sqrt()

    def guided_eps(x_t: Tensor, t: Tensor) -> Tensor:
        return guide(wave(x_t, t), 0.5 * wave(x_t, t), s)

    def guided_v(x_t: Tensor, t: Tensor) -> Tensor:
        eps = wave(x_t, t)
        return guide(as_v(eps, x_t, t), as_v(0.5 * eps, x_t, t), s)

    expected = sample(guided_eps, SHAPE, [1, 2], DIFFUSION, config(10), CPU)
    found = sample(guided_v, SHAPE, [1, 2], in_v, config(10), CPU)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
