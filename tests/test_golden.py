"""Parity with the published implementation: its small network's outputs, to 1e-4 relative."""

from pathlib import Path

import numpy as np
import published
import pytest
import tiny  # noqa: F401  (one thread)
import torch
from torch import Tensor

from benchmarks.direct import Direct
from scadm.config import SamplingConfig
from scadm.diffusion.guidance import guide
from scadm.diffusion.solvers import solve
from scadm.interop import DIFFUSION, STYLE, UNET, first_stage_from_published, from_published
from scadm.models.attention import MaskAttention
from scadm.models.scadm import to_one_hot

SAMPLING = SamplingConfig(
    solver="ddim",
    spacing="published",
    steps=10,
    eta=0.0,
    guidance_scale=1.2,
    guidance_interval=(0.0, 1.0),
    precision="fp32",
)


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, Tensor]:
    arrays = np.load(reference / "golden_small.npz")
    assert set(arrays) == {
        *("label", "image", "x_t", "t", "style"),
        *("eps_mask_attn", "eps_no_mask_attn", "eps_null", "ddim_trajectory"),
    }
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def one_hot(golden: dict[str, Tensor]) -> Tensor:
    return to_one_hot(golden["label"])


def require_close(found: Tensor, expected: Tensor) -> None:
    """Largest difference within 1e-4 of the largest value."""
    assert found.shape == expected.shape
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-4


@torch.no_grad()
def test_style_codes(reference: Path, golden: dict[str, Tensor], one_hot: Tensor) -> None:
    model = from_published(published.small_state(reference))
    require_close(model.encode_style(golden["image"], one_hot), golden["style"])


@torch.no_grad()
@pytest.mark.parametrize(("form", "name"), [("hard", "eps_mask_attn"), ("none", "eps_no_mask_attn")])
def test_noise_prediction(
    reference: Path, golden: dict[str, Tensor], one_hot: Tensor, form: MaskAttention, name: str
) -> None:
    model = from_published(published.small_state(reference), form)
    conditioning = model.condition(golden["style"], one_hot)
    require_close(model.denoise(golden["x_t"], golden["t"], conditioning), golden[name])


@torch.no_grad()
def test_no_context_and_no_mask(reference: Path, golden: dict[str, Tensor], one_hot: Tensor) -> None:
    model = from_published(published.small_state(reference))
    null = model.condition(torch.zeros_like(golden["style"]), torch.zeros_like(one_hot))
    require_close(model.denoise(golden["x_t"], golden["t"], null), golden["eps_null"])


@torch.no_grad()
def test_a_guided_ddim_trajectory(reference: Path, golden: dict[str, Tensor], one_hot: Tensor) -> None:
    model = from_published(published.small_state(reference))
    conditioning = model.condition(golden["style"], one_hot)
    null = model.condition(torch.zeros_like(golden["style"]), torch.zeros_like(one_hot))

    def denoise(x_t: Tensor, step: int) -> Tensor:
        t = torch.full((len(x_t),), step)
        return guide(model.denoise(x_t, t, conditioning), model.denoise(x_t, t, null), 2.2 - 1)

    trajectory = list(solve(denoise, golden["x_t"][:, None], DIFFUSION, SAMPLING))
    assert len(trajectory) == 10
    for i, x in enumerate(trajectory):
        require_close(x, golden["ddim_trajectory"][:, i])


@torch.no_grad()
def test_the_first_stage(reference: Path) -> None:
    """From LDM's keys; the same model saved in diffusers' form is opened in test_first_stage.py."""
    arrays = {name: torch.from_numpy(a) for name, a in np.load(reference / "golden_vq_small.npz").items()}
    assert set(arrays) == {"image", "latent", "ids", "reconstruction"}
    model = first_stage_from_published(published.small_vq_state(reference))
    latent = model.encode(arrays["image"])
    require_close(latent, arrays["latent"])
    assert torch.equal(model.ids(latent).flatten(), arrays["ids"].flatten().long())
    require_close(model.decode(latent), arrays["reconstruction"])


@torch.no_grad()
def test_the_baselines_of_the_benchmark(reference: Path, golden: dict[str, Tensor], one_hot: Tensor) -> None:
    state = published.small_state(reference)
    config = from_published(state).config
    for form, name in (("hard", "eps_mask_attn"), ("none", "eps_no_mask_attn")):
        changed = config.model_copy(update={"unet": config.unet.model_copy(update={"mask_attention": form})})
        for fused in (False, True):
            net = Direct(changed, 3, fused)
            net.load_state_dict(
                {
                    key.replace(UNET, "unet.").replace(STYLE, "style_encoder."): tensor
                    for key, tensor in state.items()
                    if "label_emb" not in key
                }
            )
            require_close(net.style_encoder(golden["image"], one_hot), golden["style"])
            require_close(net.unet(golden["x_t"], golden["t"], golden["style"], one_hot), golden[name])
            nothing = torch.zeros_like(golden["style"]), torch.zeros_like(one_hot)
            if form == "hard":
                require_close(net.unet(golden["x_t"], golden["t"], *nothing), golden["eps_null"])
