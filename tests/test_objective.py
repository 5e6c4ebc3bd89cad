"""What training minimises."""

import pytest
import tiny
import torch
from torch import Tensor, nn

from scadm.diffusion.schedule import Schedule
from scadm.models.scadm import to_one_hot
from scadm.training.objective import Draws, TrainingModule, draw

SHAPE = (3, 4, 4)


class Perfect(nn.Module):
    """Stands in for the model: knows x_0, and notes what it was conditioned on."""

    def __init__(self, x_0: Tensor) -> None:
        super().__init__()
        self.x_0 = x_0
        self.alpha_bar = Schedule(tiny.DIFFUSION).alpha_bar
        self.error = 0.0

    def encode_style(self, image: Tensor, mask: Tensor) -> Tensor:
        self.image, self.style_mask = image, mask
        return image

    def condition(self, style: Tensor, mask: Tensor) -> Tensor:
        self.mask = mask
        return mask

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        kept = self.alpha_bar[t][:, None, None, None]
        return (x_t - kept.sqrt() * self.x_0) / (1 - kept).sqrt() + self.error


def faces(count: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, *SHAPE, generator=random),
        torch.rand(count, 3, tiny.SIDE, tiny.SIDE, generator=random),
        torch.randint(19, (count, tiny.SIDE, tiny.SIDE), generator=random, dtype=torch.uint8),
    )


def draws(count: int, no_reference: list[bool] | None = None, null: list[bool] | None = None) -> Draws:
    drawn = draw(0, list(range(count)), SHAPE, tiny.DIFFUSION)
    flags = [torch.tensor(flag if flag is not None else [False] * count) for flag in (no_reference, null)]
    return drawn._replace(no_reference=flags[0], null=flags[1])


def test_the_loss_of_a_perfect_prediction_is_zero() -> None:
    x_0, image, labels = faces(4)
    stub = Perfect(x_0)
    module = TrainingModule(stub, tiny.DIFFUSION)  # type: ignore[arg-type]
    loss = module(x_0, image, labels, draws(4))
    assert loss.shape == (4,)
    assert loss.max() < 1e-8
    stub.error = 0.5
    torch.testing.assert_close(module(x_0, image, labels, draws(4)), torch.full((4,), 0.25), rtol=1e-3, atol=0)


def test_a_new_model_s_loss_is_the_noise_s_power() -> None:
    """Its last convolution is zero, so it predicts no noise."""
    x_0, image, labels = faces(3)
    torch.manual_seed(0)
    module = TrainingModule(tiny.SCADM(tiny.MODEL, 3), tiny.DIFFUSION)
    drawn = draws(3)
    torch.testing.assert_close(module(x_0, image, labels, drawn), drawn.noise.square().mean(dim=(1, 2, 3)))


class OffTarget(Perfect):
    """Its x_0 is wrong by `error`; predicts what the schedule says."""

    def __init__(self, x_0: Tensor, error: Tensor, prediction: str) -> None:
        super().__init__(x_0 + error)
        self.prediction = prediction

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        eps, kept = super().denoise(x_t, t, conditioning), self.alpha_bar[t][:, None, None, None]
        return eps if self.prediction == "epsilon" else kept.sqrt() * eps - (1 - kept).sqrt() * self.x_0


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_min_snr_weighs_the_error_of_the_latent_whatever_is_predicted(prediction: str) -> None:
    """min(SNR, gamma) ||x_0 error||^2."""
    gamma = 5.0
    config = tiny.DIFFUSION.model_copy(update={"prediction": prediction, "min_snr_gamma": gamma})
    x_0, image, labels = faces(4)
    error = 0.1 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    drawn = draws(4)._replace(t=torch.tensor([0, 10, 50, 99]))
    kept = Schedule(config).alpha_bar[drawn.t]
    expected = (kept / (1 - kept)).clamp(max=gamma) * error.square().mean(dim=(1, 2, 3))
    assert (kept / (1 - kept) > gamma).tolist() == [True, True, False, False], "both sides of gamma"
    loss = TrainingModule(OffTarget(x_0, error, prediction), config)(x_0, image, labels, drawn)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_without_gamma_the_loss_is_the_mean_square(prediction: str) -> None:
    config = tiny.DIFFUSION.model_copy(update={"prediction": prediction})
    x_0, image, labels = faces(3)
    drawn, model, schedule = draws(3), tiny.model(), Schedule(config)
    conditioning = model.condition(model.encode_style(image, to_one_hot(labels)), to_one_hot(labels))
    predicted = model.denoise(schedule.add_noise(x_0, drawn.noise, drawn.t), drawn.t, conditioning)
    expected = (predicted - schedule.target(x_0, drawn.noise, drawn.t)).square().mean(dim=(1, 2, 3))
    assert torch.equal(TrainingModule(model, config)(x_0, image, labels, drawn), expected)


def test_conditions_are_dropped_where_they_were_drawn() -> None:
    x_0, image, labels = faces(3)
    stub = Perfect(x_0)
    TrainingModule(stub, tiny.DIFFUSION)(  # type: ignore[arg-type]
        x_0, image, labels, draws(3, [False, True, False], [False, False, True])
    )
    assert [bool(part.any()) for part in stub.image] == [True, False, False]
    assert [bool(part.any()) for part in stub.style_mask] == [True, True, False]
    assert [bool(part.any()) for part in stub.mask] == [True, True, False]


def test_draws_depend_on_the_position_alone() -> None:
    together = draw(3, [10, 11, 12, 500], SHAPE, tiny.DIFFUSION)
    for row, position in enumerate([10, 11, 12, 500]):
        alone = draw(3, [position], SHAPE, tiny.DIFFUSION)
        for drawn, expected in zip(alone, together, strict=True):
            assert torch.equal(drawn[0], expected[row])
    other = draw(4, [10, 11, 12, 500], SHAPE, tiny.DIFFUSION)
    assert not torch.equal(other.noise, together.noise)


def test_draws_cover_timesteps_and_shares() -> None:
    drawn = draw(0, list(range(2000)), (1,), tiny.DIFFUSION)
    assert (drawn.t.min(), drawn.t.max()) == (0, tiny.DIFFUSION.timesteps - 1)
    assert drawn.t.float().mean().item() == pytest.approx((tiny.DIFFUSION.timesteps - 1) / 2, rel=0.05)
    assert drawn.no_reference.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert drawn.null.float().mean().item() == pytest.approx(0.1, abs=0.03)
    both = (drawn.no_reference & drawn.null).float().mean().item()
    assert both == pytest.approx(0.05, abs=0.02), "the two are dropped independently"


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_none_and_all(share: float) -> None:
    config = tiny.DIFFUSION.model_copy(update={"no_reference": share, "guidance_null": share})
    drawn = draw(0, list(range(50)), (1,), config)
    assert bool(drawn.null.all()) == bool(drawn.no_reference.any()) == (share == 1)


def test_gradients_reach_the_style_encoder() -> None:
    x_0, image, labels = faces(2)
    model = tiny.model()
    TrainingModule(model, tiny.DIFFUSION)(x_0, image, labels, draws(2)).mean().backward()
    assert model.style_encoder.first.weight.grad is not None
    assert model.style_encoder.first.weight.grad.abs().max() > 0
