"""The small VQ autoencoder and its training."""

import pytest
import tiny
import torch
from toy_faces import ToyFaces

from scadm.config import AutoencoderFitConfig, AutoencoderStageConfig
from scadm.models.autoencoder import VQAutoencoder
from scadm.training.autoencoder import Codebook, fit_autoencoder, reconstruction_ssim


def config(steps: int, rate: float = 4e-3) -> AutoencoderStageConfig:
    return AutoencoderStageConfig(
        kind="small",
        weights=None,
        weights_sha256=None,
        extra_images="conf/no_images",
        network=tiny.AUTOENCODER,
        training=AutoencoderFitConfig(
            steps=steps,
            batch_size=4,
            learning_rate=rate,
            precision="fp32",
            ssim_weight=0.5,
            commitment_weight=0.25,
            continuous_share=0.1,
            latent_noise=0.0,
        ),
    )


def autoencoder() -> VQAutoencoder:
    torch.manual_seed(0)
    return VQAutoencoder(tiny.AUTOENCODER)


IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_shapes() -> None:
    model = autoencoder()
    latent = model.encode(IMAGE)
    assert latent.shape == (2, model.latent_channels, 4, 6)
    assert model.decode(latent).shape == IMAGE.shape
    assert model.quantise(latent).ids.shape == (2, 4, 6)


def test_quantising_takes_the_nearest_code() -> None:
    model = autoencoder()
    latent = model.encode(IMAGE)
    latent_q, ids = model.quantise(latent)
    torch.testing.assert_close(latent_q, model.codebook[ids].permute(0, 3, 1, 2))
    distances = (latent[0, :, 1, 2] - model.codebook).norm(dim=1)
    assert distances.argmin() == ids[0, 1, 2]
    assert torch.equal(model.quantise(latent_q).ids, ids)


def test_the_gradient_passes_straight_through() -> None:
    model = autoencoder()
    latent = model.encode(IMAGE).detach().requires_grad_()
    weight = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    (model.quantise(latent).latent * weight).sum().backward()
    torch.testing.assert_close(latent.grad, weight)


def test_decoding_quantises_first() -> None:
    model = autoencoder()
    latent = model.encode(IMAGE)
    torch.testing.assert_close(model.decode(latent), model.decoder(model.quantise(latent).latent))
    assert (model.decode(latent) - model.decoder(latent)).abs().max() > 1e-4
    torch.testing.assert_close(model.decode(latent + 1e-6), model.decode(latent), rtol=1e-4, atol=1e-4)


def test_the_codebook_is_saved_and_no_parameter() -> None:
    model = autoencoder()
    assert "codebook" in model.state_dict()
    assert "codebook" not in dict(model.named_parameters())


def test_three_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multipliers is \(1, 2, 4\), expected two"):
        VQAutoencoder(tiny.AUTOENCODER.model_copy(update={"multipliers": (1, 2, 4)}))


def test_codes_begin_at_the_encoder_s_outputs() -> None:
    codes, cells = torch.zeros(5, 2), torch.arange(12.0).reshape(6, 2) + 1
    Codebook(codes, seed=0).start(cells)
    assert (codes[:, None] == cells).all(dim=2).any(dim=1).all()


def test_codes_follow_what_chooses_them_and_dead_ones_restart() -> None:
    codes = torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    codebook = Codebook(codes, seed=0)
    cells = torch.ones(8, 2) + 0.1 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(500):
        codebook.update(cells, torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(codes[0], cells.mean(dim=0), rtol=0, atol=0.02)
    assert (cells - codes[1]).abs().amax(dim=1).min() < 1e-3, "a code that nothing chooses begins again at a cell"


def test_it_learns() -> None:
    seen: list[dict[str, float]] = []
    model, history = fit_autoencoder(ToyFaces(16), config(60), 0, seen.append)
    assert [row["step"] for row in seen] == list(range(1, 61))
    assert history == [row for row in seen if row["step"] % 10 == 0]
    assert seen[-1]["loss"] < 0.6 * seen[0]["loss"]
    before = reconstruction_ssim(autoencoder().eval(), ToyFaces(16), 6)
    assert reconstruction_ssim(model, ToyFaces(16), 6) > before + 0.1
    assert not model.training


def test_training_is_determined_by_its_seed() -> None:
    runs = [fit_autoencoder(ToyFaces(6), config(3), seed) for seed in (7, 7, 8)]
    weights = [torch.cat([t.flatten() for t in model.state_dict().values()]) for model, _ in runs]
    assert torch.equal(weights[0], weights[1])
    assert runs[0][1] == runs[1][1]
    assert not torch.equal(weights[0], weights[2])


def test_a_diverged_run_is_refused_by_its_rate() -> None:
    with pytest.raises(ValueError, match=r"loss is (nan|inf) at step \d+.*learning_rate \(it is 1e\+30\)"):
        fit_autoencoder(ToyFaces(4), config(30, rate=1e30), 0)


def test_round_trips_are_scored_over_all_faces() -> None:
    model, faces = autoencoder().eval(), ToyFaces(18)
    first = reconstruction_ssim(model, faces, 16)
    assert reconstruction_ssim(model, faces, 1000) == pytest.approx(reconstruction_ssim(model, faces, 18))
    assert reconstruction_ssim(model, faces, 18) != first
