"""The denoising U-Net."""

import math

import pytest
import tiny
import torch
from torch import Tensor, nn

from scadm.config import UNetConfig
from scadm.faces import NUM_CLASSES as K
from scadm.models.scadm import to_one_hot
from scadm.models.unet import Block, SpadeResBlock, UNet, timestep_embedding

CODE = 6


def unet(**changes: object) -> UNet:
    return UNet(UNetConfig.model_validate(tiny.UNET.model_dump() | changes), 3, CODE)


def inputs(size: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t, t, style and one-hot mask of two faces."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (2, 4 * size, 4 * size), generator=random)
    return (
        torch.randn(2, 3, size, size, generator=random),
        torch.tensor([3, 70]),
        torch.randn(2, K, CODE, generator=random),
        to_one_hot(labels),
    )


@pytest.mark.parametrize(
    ("multipliers", "res_blocks", "attention_at"),
    [((1,), 1, (1,)), ((1, 2), 1, (2,)), ((1, 2), 2, ()), ((1, 2, 4), 1, (1, 4))],
)
def test_shapes_and_where_it_attends(
    multipliers: tuple[int, ...], res_blocks: int, attention_at: tuple[int, ...]
) -> None:
    net = unet(multipliers=multipliers, res_blocks=res_blocks, attention_at=attention_at)
    x, t, style, mask = inputs()
    assert net(x, t, net.condition(style, mask, (4, 4))).shape == x.shape
    levels = len(multipliers)
    assert len(net.encoder) == levels * res_blocks + levels - 1
    assert len(net.decoder) == levels * (res_blocks + 1)
    for blocks, factors in ((net.encoder, net.encoder_factors), (net.decoder, net.decoder_factors)):
        for block, factor in zip(blocks, factors, strict=True):
            if isinstance(block, Block):
                assert (block.attention is not None) == (factor in attention_at)
    assert all(isinstance(block.res, SpadeResBlock) for block in [*net.middle, *net.decoder])  # type: ignore[union-attr]
    assert net.middle[0].attention is not None


def test_it_begins_by_predicting_zero() -> None:
    net = unet()
    x, t, style, mask = inputs()
    assert net(x, t, net.condition(style, mask, (4, 4))).abs().max() == 0


@torch.no_grad()
def test_everything_it_is_given_matters() -> None:
    net = unet()
    tiny.lively(net)
    x, t, style, mask = inputs()
    condition = net.condition(style, mask, (4, 4))
    eps = net(x, t, condition)
    others = [
        net(x + 0.1, t, condition),
        net(x, t + 1, condition),
        net(x, t, net.condition(style + 0.1, mask, (4, 4))),
        net(x, t, net.condition(style, mask.roll(1, dims=1), (4, 4))),
    ]
    for other in others:
        assert (other - eps).abs().amax(dim=(1, 2, 3)).min() > 1e-4


@torch.no_grad()
def test_faces_do_not_depend_on_their_batch() -> None:
    net = unet()
    tiny.lively(net)
    x, t, style, mask = inputs()
    together = net(x, t, net.condition(style, mask, (4, 4)))
    alone = net(x[1:], t[1:], net.condition(style[1:], mask[1:], (4, 4)))
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-5)


def test_timestep_embedding_is_cosines_then_sines() -> None:
    found = timestep_embedding(torch.tensor([0, 10]), 8)
    assert found.shape == (2, 8)
    torch.testing.assert_close(found[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    angles = [10 / 10_000 ** (i / 4) for i in range(4)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    torch.testing.assert_close(found[1], torch.tensor(expected))


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"head_channels 5 must divide every level's channels \[8, 16\]"):
        unet(head_channels=5)


def test_no_module_is_shared_or_hidden_from_the_state() -> None:
    net = unet()
    own = sum(p.numel() for m in net.modules() for p in m.parameters(recurse=False))
    assert own == sum(p.numel() for p in net.parameters()) == sum(t.numel() for t in net.state_dict().values())
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)], "a batch must not change its members"


@torch.no_grad()
def test_masks_are_resized_as_the_configuration_says() -> None:
    x, t, style, mask = inputs()
    nets = {mode: unet(mask_resize=mode) for mode in ("nearest", "area")}
    for net in nets.values():
        tiny.lively(net)
    # Squares of a cell of the deepest level look the same either way; single pixels do not.
    squares = mask[:, :, ::8, ::8].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    coarse, fine = (
        [net(x, t, net.condition(style, part, (4, 4))) for net in nets.values()] for part in (squares, mask)
    )
    torch.testing.assert_close(coarse[0], coarse[1])
    assert (fine[0] - fine[1]).abs().max() > 1e-3
