"""DDIM and DPM-Solver++ sampling."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor

from scadm.config import SamplingConfig
from scadm.diffusion.guidance import guide
from scadm.diffusion.noise import SAMPLING, normal
from scadm.diffusion.schedule import Schedule
from scadm.diffusion.solvers import sample, solve, timesteps

DIFFUSION = tiny.DIFFUSION.model_copy(update={"timesteps": 1000})
SHAPE = (3, 4, 4)
CPU = torch.device("cpu")
ALPHA_BAR = Schedule(DIFFUSION).alpha_bar

KINDS = [(solver, spacing) for solver in ("ddim", "dpm-solver++") for spacing in ("published", "trailing", "logsnr")]
every_kind = pytest.mark.parametrize(("solver", "spacing"), KINDS)


def config(steps: int, eta: float = 0.0, **changes: Any) -> SamplingConfig:
    return tiny.SAMPLING.model_copy(update={"steps": steps, "eta": eta, **changes})


def spaced(spacing: str, steps: int, total: int = 1000) -> list[int]:
    return timesteps(tiny.DIFFUSION.model_copy(update={"timesteps": total}), config(steps, spacing=spacing))


# --- timesteps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 10, 20, 50, 100, 200, 500])
def test_timesteps_are_spaced_as_published(steps: int) -> None:
    published = [t + 1 for t in range(0, 1000, 1000 // steps)]
    assert spaced("published", steps) == published[::-1]


@pytest.mark.parametrize("steps", [7, 30, 999, 1000])
def test_any_number_of_steps_stays_within_the_schedule(steps: int) -> None:
    chain = spaced("published", steps)
    assert len(chain) == steps
    assert chain == sorted(set(chain), reverse=True)
    assert chain[-1] in (0, 1)
    assert chain[0] < 1000


@pytest.mark.parametrize("steps", [3, 600, 1001])
def test_a_number_of_steps_that_cannot_be_spaced_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"sampling.steps.* {steps}"):
        spaced("published", steps)


@pytest.mark.parametrize("spacing", ["published", "trailing", "logsnr"])
def test_more_steps_than_timesteps_are_refused(spacing: str) -> None:
    with pytest.raises(ValueError, match=r"sampling.steps is 1001, expected at most diffusion.timesteps 1000"):
        spaced(spacing, 1001)


def test_trailing_timesteps_are_those_of_lin_et_al() -> None:
    assert spaced("trailing", 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert spaced("trailing", 3) == [999, 666, 332]
    assert spaced("trailing", 1) == [999]


def test_logsnr_timesteps_are_uniform_in_lambda() -> None:
    steps = 15
    chain = spaced("logsnr", steps)
    lambdas = torch.logit(ALPHA_BAR.double()) / 2
    moves = lambdas[[*chain, 0]].diff()
    uniform = torch.full((steps,), float(lambdas[0] - lambdas[-1]) / steps, dtype=torch.float64)
    torch.testing.assert_close(moves[:-3], uniform[:-3], rtol=0.03, atol=0)
    # Near t = 0 whole timesteps are coarse in lambda.
    torch.testing.assert_close(moves, uniform, rtol=0.1, atol=0)


@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
@pytest.mark.parametrize("total", [1, 7, 100, 1000])
def test_any_number_of_steps_starts_at_pure_noise(spacing: str, total: int) -> None:
    for steps in range(1, total + 1):
        chain = spaced(spacing, steps, total)
        assert len(chain) == steps
        assert chain == sorted(set(chain), reverse=True)
        assert chain[0] == total - 1
        assert chain[-1] >= 0


@every_kind
def test_as_many_steps_as_timesteps_can_be_sampled(solver: str, spacing: str) -> None:
    small = tiny.DIFFUSION.model_copy(update={"timesteps": 20})
    assert spaced(spacing, 20, 20) == list(range(19, -1, -1))
    found = sample(wave, SHAPE, [1], small, config(20, solver=solver, spacing=spacing), CPU)
    assert found.isfinite().all()


def test_noise_with_dpm_solver_is_refused() -> None:
    fields = {**tiny.SAMPLING.model_dump(), "solver": "dpm-solver++", "eta": 0.5}
    with pytest.raises(ValidationError, match=r"eta is 0.5, expected 0 with solver dpm-solver\+\+.* Set sampling.eta"):
        SamplingConfig.model_validate(fields)


# --- one step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spacing", "steps"), [("published", 10), ("published", 7), ("trailing", 7), ("logsnr", 7)])
def test_each_ddim_step_goes_to_the_next_timestep(spacing: str, steps: int) -> None:
    """Eq. 12 of Song et al. 2021, written out; the last step goes to alpha_bar_0."""
    (x,) = normal(0, SAMPLING, [1], (1, *SHAPE))
    chain = spaced(spacing, steps)
    after = solve(wave, x[None], DIFFUSION, config(steps, spacing=spacing))
    for now, then, found in zip(chain, [*chain[1:], 0], after, strict=True):
        eps = wave(x, now)
        x_0 = (x - (1 - ALPHA_BAR[now]).sqrt() * eps) / ALPHA_BAR[now].sqrt()
        x = ALPHA_BAR[then].sqrt() * x_0 + (1 - ALPHA_BAR[then]).sqrt() * eps
        torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-4)


def perfect(x_0: Tensor) -> Callable[[Tensor, int], Tensor]:
    """The denoiser that knows x_0."""
    return lambda x_t, t: (x_t - ALPHA_BAR[t].sqrt() * x_0) / (1 - ALPHA_BAR[t]).sqrt()


@every_kind
@pytest.mark.parametrize("steps", [5, 20])
def test_a_perfect_denoiser_finds_the_latent(solver: str, spacing: str, steps: int) -> None:
    x_0 = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    sampling = config(steps, solver=solver, spacing=spacing)
    found = sample(perfect(x_0), SHAPE, [1, 2], DIFFUSION, sampling, CPU)
    # The noise stays what x_T makes it, and at alpha_bar_0 a little of it is left.
    noise = normal(0, SAMPLING, [1, 2], (1, *SHAPE))[:, 0]
    eps = perfect(x_0)(noise, timesteps(DIFFUSION, sampling)[0])
    expected = ALPHA_BAR[0].sqrt() * x_0 + (1 - ALPHA_BAR[0]).sqrt() * eps
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found - x_0).abs().max() < 4.5 * (1 - ALPHA_BAR[0]).sqrt()


@pytest.mark.parametrize("spacing", ["published", "trailing", "logsnr"])
@pytest.mark.parametrize("steps", [5, 20])
def test_a_perfect_denoiser_finds_the_latent_through_noise(spacing: str, steps: int) -> None:
    x_0 = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = sample(perfect(x_0), SHAPE, [1, 2], DIFFUSION, config(steps, 0.7, spacing=spacing), CPU)
    assert (found - x_0).abs().max() < 4.5 * (1 - ALPHA_BAR[0]).sqrt()


# --- the equation that is solved ------------------------------------------------------------------------

MU = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(SHAPE)
STD = torch.logspace(-1.5, 0.3, 48, dtype=torch.float64).reshape(SHAPE)


def of_a_gaussian(x_t: Tensor, t: int) -> Tensor:
    """The best prediction of the noise where x_0 ~ N(MU, STD^2): then x_t ~ N(a MU, a^2 STD^2 + 1 - a^2)."""
    kept = ALPHA_BAR[t].double()
    return (1 - kept).sqrt() * (x_t - kept.sqrt() * MU) / (kept * STD**2 + 1 - kept)


def distance_to_the_exact_solution(solver: str, spacing: str, steps: int) -> float:
    """RMSE at alpha_bar_0. The exact flow keeps each x_t's number of standard deviations from its mean."""
    noise = normal(0, SAMPLING, list(range(16)), (1, *SHAPE))[:, 0]
    found = sample(of_a_gaussian, SHAPE, list(range(16)), DIFFUSION, config(steps, solver=solver, spacing=spacing), CPU)
    first, last = ALPHA_BAR[timesteps(DIFFUSION, config(steps, spacing=spacing))[0]].double(), ALPHA_BAR[0].double()
    deviations = (noise - first.sqrt() * MU) / (first * STD**2 + 1 - first).sqrt()
    exact = last.sqrt() * MU + (last * STD**2 + 1 - last).sqrt() * deviations
    return (found - exact).square().mean().sqrt().item()


def test_ddim_s_error_falls_like_one_over_the_steps() -> None:
    for spacing in ("published", "trailing", "logsnr"):
        errors = [distance_to_the_exact_solution("ddim", spacing, steps) for steps in (25, 50, 100)]
        for more, fewer in zip(errors[1:], errors, strict=False):
            assert fewer / more == pytest.approx(2, rel=0.15)


def test_dpm_solver_s_error_falls_faster() -> None:
    """Like one over their square, where they are uniform in lambda."""
    for steps in (20, 25):
        fewer, more = (distance_to_the_exact_solution("dpm-solver++", "logsnr", n) for n in (steps, 2 * steps))
        assert fewer / more == pytest.approx(4, rel=0.15)


def test_dpm_solver_with_few_steps_is_as_exact_as_ddim_with_many() -> None:
    for spacing in ("published", "trailing", "logsnr"):
        ddim = {steps: distance_to_the_exact_solution("ddim", spacing, steps) for steps in (20, 100)}
        assert distance_to_the_exact_solution("dpm-solver++", spacing, 20) < 0.8 * ddim[20]
        assert distance_to_the_exact_solution("dpm-solver++", "logsnr", 20) < 0.5 * ddim[100]


# --- what holds whatever is sampled ---------------------------------------------------------------------


def wave(x_t: Tensor, t: int) -> Tensor:
    """Some denoiser that depends on both of its arguments."""
    return torch.sin(x_t + t / 100)


@pytest.mark.parametrize(("solver", "spacing", "eta"), [(*kind, 0.0) for kind in KINDS] + [
    ("ddim", "published", 0.5), ("ddim", "published", 1.0), ("ddim", "trailing", 1.0), ("ddim", "logsnr", 1.0),
])  # fmt: skip
def test_an_image_does_not_depend_on_its_batch(solver: str, spacing: str, eta: float) -> None:
    sampling = config(5, eta, solver=solver, spacing=spacing)
    together = sample(wave, SHAPE, [3, 1, 4, 1], DIFFUSION, sampling, CPU)
    for row, seed in enumerate([3, 1, 4, 1]):
        alone = sample(wave, SHAPE, [seed], DIFFUSION, sampling, CPU)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)
    assert torch.equal(together[1], together[3])
    assert (together[0] - together[1]).abs().max() > 0.1


@every_kind
def test_calls_share_no_state(solver: str, spacing: str) -> None:
    """Another sampling in the middle of one changes nothing of it."""
    sampling = config(7, solver=solver, spacing=spacing)
    noise = normal(0, SAMPLING, [1], (1, *SHAPE))
    expected = list(solve(wave, noise, DIFFUSION, sampling))
    for x, undisturbed in zip(solve(wave, noise, DIFFUSION, sampling), expected, strict=True):
        assert torch.equal(x, undisturbed)
        sample(wave, SHAPE, [2], DIFFUSION, config(3, solver=solver, spacing="trailing"), CPU)


def test_eta_adds_noise_to_the_same_beginning() -> None:
    seen: list[Tensor] = []

    def spy(x_t: Tensor, t: int) -> Tensor:
        seen.append(x_t.clone())
        return wave(x_t, t)

    results = [sample(spy, SHAPE, [5], DIFFUSION, config(4, eta), CPU) for eta in (0.0, 1.0)]
    assert torch.equal(seen[0], seen[4])
    assert not torch.equal(seen[1], seen[5])
    assert not torch.equal(*results)


@every_kind
def test_a_half_precision_denoiser_is_sampled_in_float32(solver: str, spacing: str) -> None:
    noise = normal(0, SAMPLING, [1], (1, *SHAPE))
    sampling = config(4, solver=solver, spacing=spacing)
    for x in solve(lambda x, t: wave(x, t).bfloat16(), noise, DIFFUSION, sampling):
        assert x.dtype == torch.float32


@every_kind
@pytest.mark.parametrize("s", [0.0, 1.2])
def test_predicting_v_samples_what_predicting_the_noise_samples(solver: str, spacing: str, s: float) -> None:
    """v is the noise but for a factor and a shift, so guidance and solver must end at the same latent."""
    in_v = DIFFUSION.model_copy(update={"prediction": "v"})
    sampling = config(10, solver=solver, spacing=spacing)

    def as_v(eps: Tensor, x_t: Tensor, t: int) -> Tensor:
        kept = ALPHA_BAR[t]
        return (eps - (1 - kept).sqrt() * x_t) / kept.sqrt()

    def guided_eps(x_t: Tensor, t: int) -> Tensor:
        return guide(wave(x_t, t), 0.5 * wave(x_t, t), s)

    def guided_v(x_t: Tensor, t: int) -> Tensor:
        eps = wave(x_t, t)
        return guide(as_v(eps, x_t, t), as_v(0.5 * eps, x_t, t), s)

    expected = sample(guided_eps, SHAPE, [1, 2], DIFFUSION, sampling, CPU)
    found = sample(guided_v, SHAPE, [1, 2], in_v, sampling, CPU)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
