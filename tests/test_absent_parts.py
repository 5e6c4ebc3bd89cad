"""A part that the reference lacks (the paper's Fig. 4): what takes its place looks like that part.

A small model learns faces of known factors: hats are pure red or pure blue, and nothing else is. Latents are the
picture's own colours at a quarter of its size, so that no autoencoder stands between factor and measurement.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
from einops import reduce
from torch import Tensor, nn

from scadm.config import ModelConfig
from scadm.faces import CLASS_ID
from scadm.first_stage import LatentScale
from scadm.models.scadm import SCADM
from scadm.pixels import Images, Labels, to_signed
from scadm.synthesis import Synthesiser
from scadm.training import ema
from scadm.training.objective import TrainingModule, draw

SIDE = 32
RED, BLUE = np.array([230, 25, 25]), np.array([25, 25, 230])
HAT = CLASS_ID["hat"]
DIFFUSION = tiny.DIFFUSION.model_copy(update={"timesteps": 1000, "prediction": "v"})


@dataclass(frozen=True)
class Drawn:
    images: Images
    labels: Labels
    hats: np.ndarray
    """The colour of each face's hat."""

    @classmethod
    def draw(cls, count: int, seed: int, hat: bool | None = None) -> "Drawn":
        """Skin and hair in greys and greens; a hat on half of the faces, or on all, or on none."""
        rng = np.random.default_rng(seed)
        labels = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
        images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
        hats = np.where(rng.random((count, 1)) < 0.5, RED, BLUE)
        for image, label, colour in zip(images, labels, hats, strict=True):
            left = 4 * int(rng.integers(1, 3))
            image[:] = rng.integers(100, 160)
            boxes = [("hair", 8, 16, [40, int(rng.integers(120, 200)), 60]), ("skin", 16, 28, [200, 190, 160])]
            if hat or (hat is None and rng.random() < 0.5):
                boxes.append(("hat", 0, 8, colour))
            for name, top, bottom, paint in boxes:
                image[top:bottom, left : left + 16] = paint
                label[top:bottom, left : left + 16] = CLASS_ID[name]
        return cls(images, labels, hats)


class Colours(nn.Module):
    """A first stage that only averages: latents are colours."""

    latent_channels = 3

    def encode(self, image: Tensor) -> Tensor:
        return reduce(image, "b c (h 4) (w 4) -> b c h w", "mean")

    def decode(self, latent: Tensor) -> Tensor:
        return latent.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).clamp(-1, 1)


@pytest.fixture(scope="module")
def synthesiser() -> Synthesiser:
    style = tiny.STYLE.model_copy(update={"features": 2, "style_channels": 8})
    unet = tiny.UNET.model_copy(
        update={"channels": 16, "head_channels": 8, "spade_channels": 16, "attention_at": (1, 2)}
    )
    torch.manual_seed(0)
    model = SCADM(ModelConfig(method="sca-dm", style_encoder=style, unet=unet), 3)
    module, steps, batch = TrainingModule(model, DIFFUSION), 300, 12
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 4e-3)
    faces = Drawn.draw(256, seed=0)
    for step in range(steps):
        positions = list(range(step * batch, (step + 1) * batch))
        rows = [p % len(faces.images) for p in positions]
        image = to_signed(faces.images[rows])
        drawn = draw(0, positions, (3, SIDE // 4, SIDE // 4), DIFFUSION)
        loss = module(Colours().encode(image), image, torch.from_numpy(faces.labels[rows]), drawn).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ema.update(average, model, step + 1, 0.98)
    model.load_state_dict(average)
    return Synthesiser(
        model=model.eval().requires_grad_(False),
        first_stage=Colours(),
        scale=LatentScale.identity(3),
        diffusion=DIFFUSION,
        sampling=tiny.SAMPLING.model_copy(update={"solver": "dpm-solver++", "spacing": "logsnr", "steps": 20}),
        resolution=SIDE,
        device=torch.device("cpu"),
    )


def hat_colours(images: Images, labels: Labels) -> np.ndarray:
    """Mean colour of each face's hat (N, 3)."""
    return np.stack([image[label == HAT].mean(axis=0) for image, label in zip(images, labels, strict=True)])


def nearest(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each colour to the nearer of red and blue, and whether that is red."""
    distances = np.stack([np.abs(colours - hat).mean(axis=1) for hat in (RED, BLUE)])
    return distances.min(axis=0), distances[0] < distances[1]


SEEDS = list(range(24))
WANTED = Drawn.draw(len(SEEDS), seed=1, hat=True)


def require_hats(found: Images) -> np.ndarray:
    """Which of the hats are red; all must look like one, which the nearest other part's colour is 90 away from."""
    distances, red = nearest(hat_colours(found, WANTED.labels))
    assert np.median(distances) < 30
    assert (distances < 70).all()
    return red


@pytest.mark.slow
def test_a_reference_without_a_hat_onto_a_mask_with_one_gets_a_plausible_hat(synthesiser: Synthesiser) -> None:
    bare = Drawn.draw(len(SEEDS), seed=2, hat=False)
    red = require_hats(synthesiser.dress(WANTED.labels, bare.images, bare.labels, SEEDS))
    assert 0.15 < red.mean() < 0.85, "noise chooses the colour"


@pytest.mark.slow
def test_a_reference_with_a_hat_gives_its_own(synthesiser: Synthesiser) -> None:
    dressed = Drawn.draw(len(SEEDS), seed=3, hat=True)
    red = require_hats(synthesiser.dress(WANTED.labels, dressed.images, dressed.labels, SEEDS))
    assert np.array_equal(red, dressed.hats[:, 0] == RED[0])


@pytest.mark.slow
def test_a_reconstruction_keeps_the_hat(synthesiser: Synthesiser) -> None:
    red = require_hats(synthesiser.reconstruct(WANTED.images, WANTED.labels, SEEDS))
    assert np.array_equal(red, WANTED.hats[:, 0] == RED[0])
