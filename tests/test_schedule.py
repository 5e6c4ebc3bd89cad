"""The forward process."""

import pytest
import tiny
import torch

from scadm.diffusion.schedule import Schedule

PUBLISHED = tiny.DIFFUSION.model_copy(update={"timesteps": 1000})


def test_betas_are_linear_in_their_square_root() -> None:
    schedule = Schedule(PUBLISHED)
    assert schedule.alpha_bar.shape == (1000,)
    assert schedule.alpha_bar.dtype == torch.float32
    kept = schedule.alpha_bar.double()
    beta = 1 - kept[1:] / kept[:-1]
    assert schedule.alpha_bar[0].item() == pytest.approx(1 - 0.0015)
    assert beta[-1].item() == pytest.approx(0.0195, rel=1e-3)
    middle = (0.5 * 0.0015**0.5 + 0.5 * 0.0195**0.5) ** 2
    assert beta[499].item() == pytest.approx(middle, rel=5e-3)
    assert (schedule.alpha_bar.diff() < 0).all()
    assert 0 < schedule.alpha_bar[-1] < 0.001


def test_it_is_not_part_of_a_checkpoint() -> None:
    assert not Schedule(PUBLISHED).state_dict()


def test_add_noise_mixes_by_timestep() -> None:
    schedule = Schedule(PUBLISHED)
    random = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 2, 3, 4, 4, generator=random)
    t = torch.tensor([0, 999])
    x_t = schedule.add_noise(x_0, noise, t)
    for i in range(2):
        kept = schedule.alpha_bar[t[i]]
        torch.testing.assert_close(x_t[i], kept**0.5 * x_0[i] + (1 - kept) ** 0.5 * noise[i])
    assert (x_t[0] - x_0[0]).abs().max() < 0.2
    assert (x_t[1] - noise[1]).abs().max() < 0.1


def test_variance_is_kept() -> None:
    x_0, noise = torch.randn(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    x_t = Schedule(PUBLISHED).add_noise(x_0, noise, torch.tensor([0, 100, 300, 600, 999]))
    assert (x_t.var(dim=(1, 2, 3)) - 1).abs().max() < 0.1


def test_v_and_x_t_determine_the_latent_and_the_noise() -> None:
    schedule = Schedule(tiny.DIFFUSION.model_copy(update={"prediction": "v"}))
    x_0, noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 3, 50, tiny.DIFFUSION.timesteps - 1])
    x_t, v = schedule.add_noise(x_0, noise, t), schedule.target(x_0, noise, t)
    kept = schedule.alpha_bar[t][:, None, None, None]
    torch.testing.assert_close(kept.sqrt() * x_t - (1 - kept).sqrt() * v, x_0)
    torch.testing.assert_close((1 - kept).sqrt() * x_t + kept.sqrt() * v, noise)


def weights(prediction: str, gamma: float | None, t: list[int]) -> torch.Tensor:
    config = PUBLISHED.model_copy(update={"prediction": prediction, "min_snr_gamma": gamma})
    return Schedule(config).loss_weight(torch.tensor(t))


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [("epsilon", [5 / 665.6667, 1.0]), ("v", [5 / 666.6667, 0.00014230 / 1.0])],
)
def test_min_snr_weights_are_those_of_hang_et_al(prediction: str, expected: list[float]) -> None:
    """At t = 0, SNR = 0.9985 / 0.0015 = 665.67, above gamma; at t = 999, SNR / (SNR + 1) = alpha_bar = 0.0001423."""
    assert weights(prediction, 5.0, [0, 999]).tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_without_gamma_every_timestep_weighs_one(prediction: str) -> None:
    assert torch.equal(weights(prediction, None, [0, 1, 500, 999]), torch.ones(4))
