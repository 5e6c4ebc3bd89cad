"""Style encoder and U-Net as one model: condition once, denoise many times."""

import math
import re
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from scadm.faces import NUM_CLASSES as K
from scadm.models.attention import MaskAttention
from scadm.models.scadm import SCADM, drop_condition, to_one_hot

SIDE = tiny.SIDE


@pytest.fixture
def faces() -> tuple[Tensor, Tensor]:
    """Two images and their masks."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (2, SIDE, SIDE), generator=random)
    return torch.rand(2, 3, SIDE, SIDE, generator=random) * 2 - 1, to_one_hot(labels)


X, T = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 60])


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples."""
    if isinstance(tree, Tensor):
        return [tree]
    return [found for part in tree or () for found in tensors(part)]


@torch.no_grad()
@pytest.mark.parametrize("form", ["hard", "soft", "none"])
def test_conditioning_computed_once_serves_every_step(form: MaskAttention, faces: tuple[Tensor, Tensor]) -> None:
    model = tiny.model(tiny.with_unet(mask_attention=form))
    style = model.encode_style(*faces)
    once = model.condition(style, faces[1])
    before = [tensor.clone() for tensor in tensors(once)]
    assert before
    x = X
    for t in (90, 50, 10):
        step = torch.full((2,), t)
        eps = model.denoise(x, step, once)
        assert torch.equal(eps, model.denoise(x, step, model.condition(style, faces[1])))
        x = x - 0.1 * eps
    for tensor, kept in zip(tensors(once), before, strict=True):
        assert torch.equal(tensor, kept), "denoise must not change the conditioning"


def test_conditioning_depends_on_style_and_mask_alone(faces: tuple[Tensor, Tensor]) -> None:
    """Were it to depend on x_t or t, their gradient would reach into it; its own arguments do."""
    model = tiny.model()
    style = model.encode_style(*faces).detach().requires_grad_()
    conditioning = model.condition(style, faces[1])
    x = X.clone().requires_grad_()
    eps = model.denoise(x, T, conditioning)
    to_x, to_style = torch.autograd.grad(eps.square().sum(), [x, style])
    assert to_x.abs().max() > 0
    assert to_style.abs().max() > 0
    parts = sum(tensor.sum() for tensor in tensors(conditioning))
    assert isinstance(parts, Tensor)
    assert torch.autograd.grad(parts, x, allow_unused=True) == (None,)


@pytest.mark.parametrize("form", ["hard", "soft", "none"])
def test_gradients_reach_every_trainable_parameter(form: MaskAttention, faces: tuple[Tensor, Tensor]) -> None:
    model = tiny.model(tiny.with_unet(mask_attention=form)).train()
    model.denoise(X, T, model.condition(model.encode_style(*faces), faces[1])).square().sum().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    assert not without
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (form == "hard")


def test_shapes_that_do_not_fit_are_refused_with_both_values(faces: tuple[Tensor, Tensor]) -> None:
    model, (image, mask) = tiny.model(), faces
    with pytest.raises(ValueError, match=r"mask has shape \(2, 18, 16, 16\), expected \(B, 19, H, W\)"):
        model.encode_style(image, mask[:, 1:])
    with pytest.raises(ValueError, match=r"image has shape \(2, 3, 8, 8\) and its mask \(2, 19, 16, 16\)"):
        model.encode_style(image[..., :8, :8], mask)
    with pytest.raises(ValueError, match=r"image has shape \(1, 3, 16, 16\)"):
        model.encode_style(image[:1], mask)
    style = model.encode_style(image, mask)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 16, 16\)"):
        model.condition(style, mask[:, 0])
    with pytest.raises(ValueError, match=r"style has shape \(2, 19, 7\), expected \(2, 19, 8\)"):
        model.condition(style[..., :7], mask)
    with pytest.raises(ValueError, match=r"style has shape \(1, 19, 8\), expected \(2, 19, 8\)"):
        model.condition(style[:1], mask)
    conditioning = model.condition(style, mask)
    for x_t, t in ((X[..., :2, :2], T), (X[:1], T[:1]), (X[:, :2], T), (X, T[:1])):
        expected = rf"x_t has shape {re.escape(str(tuple(x_t.shape)))} and t .*expected \(2, 3, 4, 4\) and \(2,\)"
        with pytest.raises(ValueError, match=expected):
            model.denoise(x_t, t, conditioning)


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0 to 1"), (2.0, "0 to 2"), (-1.0, "-1 to 1"), (math.nan, "nan")])
def test_a_mask_that_is_not_multi_hot_is_refused(faces: tuple[Tensor, Tensor], value: float, shown: str) -> None:
    model, (image, mask) = tiny.model(), faces
    style = model.encode_style(image, mask)
    mask[1, 4, 2, 3] = value
    for call in (lambda: model.encode_style(image, mask), lambda: model.condition(style, mask)):
        with pytest.raises(ValueError, match=rf"mask has values from .*{shown}.*, expected 0 and 1 only"):
            call()


def test_masks_may_be_multi_hot_or_empty(faces: tuple[Tensor, Tensor]) -> None:
    model, (image, mask) = tiny.model(), faces
    for changed in (torch.maximum(mask, mask.roll(1, dims=1)), torch.zeros_like(mask)):
        eps = model.denoise(X, T, model.condition(model.encode_style(image, changed), changed))
        assert eps.isfinite().all()


def test_to_one_hot() -> None:
    labels = torch.tensor([[[0, 18], [3, 3]]], dtype=torch.uint8)
    mask = to_one_hot(labels)
    assert mask.shape == (1, K, 2, 2)
    assert mask.dtype == torch.float32
    assert torch.equal(mask.argmax(dim=1), labels.long())
    assert torch.equal(mask.sum(dim=1), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="labels hold the id 19, expected 0 to 18"):
        to_one_hot(torch.tensor([[[19]]]))


def test_the_three_cases_of_a_dropped_condition() -> None:
    image, mask = torch.full((4, 3, 2, 2), 0.5), torch.ones(4, K, 2, 2)
    no_reference = torch.tensor([False, True, False, True])
    null = torch.tensor([False, False, True, True])
    seen, style_mask, imposed = drop_condition(image, mask, no_reference, null)
    shown = [bool(part.abs().max() > 0) for part in seen]
    assert shown == [True, False, False, False]
    assert torch.equal(seen[0], image[0])
    for found in (style_mask, imposed):  # no reference keeps its mask, the null of guidance has none
        assert [bool(part.abs().max() > 0) for part in found] == [True, True, False, False]
        assert torch.equal(found[1], mask[1])


def test_a_new_model_is_determined_by_the_seed() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in SCADM(tiny.MODEL, 3).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
