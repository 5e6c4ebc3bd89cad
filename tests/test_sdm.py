"""SDM, the baseline of the mask alone: the same U-Net without style encoder and cross-attention."""

import pytest
import tiny
import torch

from scadm.faces import NUM_CLASSES as K
from scadm.models.scadm import SCADM, to_one_hot
from scadm.training.objective import TrainingModule, draw

CONFIG = tiny.MODEL.model_copy(update={"method": "sdm"})
LABELS = torch.randint(K, (2, tiny.SIDE, tiny.SIDE), generator=torch.Generator().manual_seed(0))
MASK = to_one_hot(LABELS)
IMAGES = torch.rand(2, 2, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
X, T = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([5, 60])


@torch.no_grad()
def test_it_sees_the_mask_and_no_face() -> None:
    model = tiny.model(CONFIG)
    codes = [model.encode_style(image, MASK) for image in IMAGES]
    assert [code.shape for code in codes] == [(2, K, 0)] * 2
    own, other = (model.denoise(X, T, model.condition(code, MASK)) for code in codes)
    assert torch.equal(own, other)
    elsewhere = model.denoise(X, T, model.condition(codes[0], MASK.flip(3)))
    assert not torch.allclose(own, elsewhere)


def test_it_is_the_same_network_less_what_carries_style() -> None:
    ours, baseline = (SCADM(config, 3).state_dict().keys() for config in (tiny.MODEL, CONFIG))
    assert baseline < ours
    assert all(name.startswith("style_encoder.") or ".cross_attention." in name for name in ours - baseline)


def test_every_weight_learns() -> None:
    module = TrainingModule(tiny.model(CONFIG).train(), tiny.DIFFUSION)
    draws = draw(0, [0, 1], (3, 4, 4), tiny.DIFFUSION)
    module(X, IMAGES[0], LABELS, draws).sum().backward()
    still = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []


@torch.no_grad()
def test_its_guidance_null_is_the_dropped_mask() -> None:
    module = TrainingModule(tiny.model(CONFIG), tiny.DIFFUSION)
    draws = draw(0, [0, 1], (3, 4, 4), tiny.DIFFUSION)._replace(null=torch.tensor([True, False]))
    losses = module(X, IMAGES[0], LABELS, draws)
    blind = module.loss(X, draws, module.model.condition(torch.zeros(2, K, 0), torch.zeros_like(MASK)))
    assert losses[0] == pytest.approx(float(blind[0]), rel=1e-5)
    assert losses[1] != pytest.approx(float(blind[1]), rel=1e-5)
