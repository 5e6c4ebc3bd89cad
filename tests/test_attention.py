"""Mask-conditioned cross-attention in its three forms (Eq. 8)."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from scadm.faces import NUM_CLASSES as K
from scadm.models.attention import MaskAttention, MaskedCrossAttention, SpatialTransformer
from scadm.models.scadm import to_one_hot

CHANNELS, CODE, HEADS = 8, 6, 4
FORMS: list[MaskAttention] = ["hard", "soft", "none"]


def attention(form: MaskAttention) -> MaskedCrossAttention:
    built = MaskedCrossAttention(CHANNELS, CODE, CHANNELS // HEADS, form)
    tiny.lively(built)
    return built


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, STYLE = random(2, 16, CHANNELS), random(2, K, CODE, seed=1)
LABELS = torch.randint(K, (2, 4, 4), generator=torch.Generator().manual_seed(2))
MASK = to_one_hot(LABELS)


@torch.no_grad()
def attend(form: MaskAttention, style: Tensor = STYLE, mask: Tensor = MASK, x: Tensor = X) -> Tensor:
    built = attention(form)
    return built(x, built.condition(style, mask))


@torch.no_grad()
def by_softmax(built: MaskedCrossAttention, x: Tensor, style: Tensor, mask: Tensor, *, multiply: bool) -> Tensor:
    """The attention written out: masked logits are 0 (`multiply`, Eq. 8) or minus infinity."""
    split = "b l (h d) -> b h l d"
    q, k, v = (
        rearrange(tokens, split, h=HEADS)
        for tokens in (built.to_q(built.norm(x)), built.to_k(style), built.to_v(style))
    )
    logits = q @ k.transpose(2, 3) / (CHANNELS // HEADS) ** 0.5
    pixels = rearrange(mask, "b k h w -> b 1 (h w) k")
    logits = logits * pixels if multiply else logits.masked_fill(pixels == 0, -torch.inf)
    return built.to_out(rearrange(logits.softmax(-1) @ v, "b h l d -> b l (h d)"))


def test_hard_is_a_gather_by_class() -> None:
    built = attention("hard")
    with torch.no_grad():
        projected = built.to_out(built.to_v(STYLE))
    gathered = torch.stack([projected[b, LABELS[b].flatten()] for b in range(2)])
    assert torch.equal(attend("hard"), gathered)


def test_hard_is_a_softmax_with_masked_logits_at_minus_infinity() -> None:
    torch.testing.assert_close(attend("hard"), by_softmax(attention("hard"), X, STYLE, MASK, multiply=False))


def test_soft_is_eq_8() -> None:
    found = attend("soft")
    torch.testing.assert_close(found, by_softmax(attention("soft"), X, STYLE, MASK, multiply=True))
    assert (found - attend("hard")).abs().max() > 0.01


def test_where_the_mask_is_zero_hard_takes_the_mean_of_all_classes() -> None:
    built = attention("hard")
    mask = MASK.clone()
    mask[0, :, 1, 2] = 0
    with torch.no_grad():
        mean = built.to_out(built.to_v(STYLE).mean(dim=1))
    found = attend("hard", mask=mask)
    torch.testing.assert_close(found[0, 4 * 1 + 2], mean[0])
    others = torch.arange(16) != 4 * 1 + 2
    assert torch.equal(found[0, others], attend("hard")[0, others])
    torch.testing.assert_close(attend("hard", mask=torch.zeros_like(MASK))[1], mean[1].expand(16, -1))


def test_hard_shares_a_pixel_of_two_classes() -> None:
    built = attention("hard")
    mask = torch.zeros_like(MASK)
    mask[:, 3], mask[:, 5] = 1, 1
    with torch.no_grad():
        values = built.to_out(built.to_v(STYLE))
    torch.testing.assert_close(attend("hard", mask=mask)[0, 0], values[0, [3, 5]].mean(dim=0))


def test_soft_with_a_mask_of_ones_is_none() -> None:
    torch.testing.assert_close(attend("soft", mask=torch.ones_like(MASK)), attend("none"))


def test_none_does_not_see_the_mask() -> None:
    assert torch.equal(attend("none"), attend("none", mask=torch.zeros_like(MASK)))


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_classes_does_not_matter(form: MaskAttention) -> None:
    order = torch.randperm(K, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(attend(form, STYLE[:, order], MASK[:, order]), attend(form))


def test_hard_lets_a_style_act_on_its_own_part_alone() -> None:
    k = int(LABELS[0, 0, 0])
    other = STYLE.clone()
    other[:, k] += 1
    changed = (attend("hard", other) - attend("hard")).abs().amax(dim=2) > 0
    assert torch.equal(changed, LABELS.flatten(1) == k)
    assert ((attend("soft", other) - attend("soft")).abs().amax(dim=2) > 0).all()


def test_hard_does_not_depend_on_the_features() -> None:
    assert torch.equal(attend("hard", x=X), attend("hard", x=10 * X))
    assert not torch.equal(attend("soft", x=X), attend("soft", x=10 * X))


@pytest.mark.parametrize("form", FORMS)
def test_what_hard_never_uses_is_frozen_and_kept(form: MaskAttention) -> None:
    built = attention(form)
    frozen = {name for name, parameter in built.named_parameters() if not parameter.requires_grad}
    assert frozen == ({"norm.weight", "norm.bias", "to_q.weight", "to_k.weight"} if form == "hard" else set())
    assert built.state_dict().keys() == attention("none").state_dict().keys()
    built(X, built.condition(STYLE, MASK)).square().sum().backward()
    without = {name for name, parameter in built.named_parameters() if parameter.grad is None}
    assert without == frozen


@pytest.mark.parametrize("form", FORMS)
def test_a_transformer_begins_as_the_identity(form: MaskAttention) -> None:
    transformer = SpatialTransformer(CHANNELS, CODE, CHANNELS // HEADS, 4, form)
    x = random(2, CHANNELS, 4, 4)
    condition = transformer.condition(STYLE, MASK)
    assert torch.equal(transformer(x, condition), x)
    tiny.lively(transformer)
    changed = transformer(x, transformer.condition(STYLE, MASK))
    assert changed.shape == x.shape
    assert F.mse_loss(changed, x) > 0.01


def test_hard_with_an_area_mask_is_a_convex_mix_of_values_at_borders() -> None:
    """A cell that parts share takes the mean of their projected values, by area, whatever the features are."""
    built = attention("hard")
    labels = torch.randint(K, (2, 16, 16), generator=torch.Generator().manual_seed(4))
    labels[:, :4, :4] = 7  # one cell of a single part
    area = F.interpolate(to_one_hot(labels), (4, 4), mode="area")
    with torch.no_grad():
        values = built.to_out(built.to_v(STYLE))
    found = attend("hard", mask=area)
    shares = rearrange(area, "b k h w -> b (h w) k")
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(2, 16))
    torch.testing.assert_close(found, shares @ values)
    torch.testing.assert_close(found[:, 0], values[:, 7])
    lowest, highest = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    assert ((found >= lowest - 1e-5) & (found <= highest + 1e-5)).all()
    assert torch.equal(found, attend("hard", mask=area, x=10 * X))
