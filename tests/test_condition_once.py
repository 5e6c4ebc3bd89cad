"""Condition once, denoise many: what a sampling step computes, and that it is right under torch's modes."""

import os
import socket
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scadm.faces import NUM_CLASSES as K
from scadm.models.attention import MaskAttention
from scadm.models.scadm import SCADM, to_one_hot
from scadm.models.spade import Spade
from scadm.precision import channels_last
from scadm.training.objective import TrainingModule, draw

SIDE, CELLS = tiny.SIDE, tiny.SIDE // 4
RANDOM = torch.Generator().manual_seed(0)
IMAGE = torch.rand(2, 3, SIDE, SIDE, generator=RANDOM) * 2 - 1
LABELS = torch.randint(K, (2, SIDE, SIDE), generator=RANDOM)
MASK = to_one_hot(LABELS)
X, T = torch.randn(2, 3, CELLS, CELLS, generator=RANDOM), torch.tensor([5, 60])


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen += [tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return result


def model(form: MaskAttention = "hard") -> SCADM:
    # At both levels, and with heads of their own number, so that no other tensor has the size that is looked for.
    return tiny.model(tiny.with_unet(mask_attention=form, attention_at=(1, 2), head_channels=4))


def weights_of_tokens(form: MaskAttention) -> list[tuple[int, ...]]:
    """Tensors of HW x heads x K, of any level and in any order of dimensions, that `denoise` makes."""
    net = model(form)
    with torch.no_grad():
        conditioning = net.condition(net.encode_style(IMAGE, MASK), MASK)
        with Shapes() as shapes:
            net.denoise(X, T, conditioning)
    assert len(shapes.seen) > 100
    sizes = {
        len(X) * (CELLS // factor) ** 2 * (tiny.UNET.channels * multiplier // 4) * K
        for factor, multiplier in ((1, 1), (2, 2))
    }
    return [shape for shape in shapes.seen if torch.Size(shape).numel() in sizes]


def test_a_hard_step_makes_no_weights_of_tokens() -> None:
    assert not weights_of_tokens("hard")
    assert weights_of_tokens("soft"), "the control: Eq. 8 as printed needs them"


def test_a_step_leaves_no_state_on_the_modules() -> None:
    net = model()
    conditioning = net.condition(net.encode_style(IMAGE, MASK), MASK)
    before = {name: set(vars(module)) for name, module in net.named_modules()}
    values = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.denoise(X, T, conditioning)
    assert before == {name: set(vars(module)) for name, module in net.named_modules()}
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())
    assert not list(net.buffers())


def test_conditionings_of_two_faces_can_be_used_in_turns() -> None:
    net = model()
    with torch.no_grad():
        style = net.encode_style(IMAGE, MASK)
        one, other = net.condition(style[:1], MASK[:1]), net.condition(style[1:], MASK[1:])
        first = net.denoise(X[:1], T[:1], one)
        net.denoise(X[1:], T[1:], other)
        assert torch.equal(net.denoise(X[:1], T[:1], one), first)


@pytest.mark.parametrize("form", ["hard", "soft", "none"])
def test_inference_mode_and_autograd_give_the_same(form: MaskAttention) -> None:
    net = model(form)
    eps = net.denoise(X, T, net.condition(net.encode_style(IMAGE, MASK), MASK))
    with torch.inference_mode():
        conditioning = net.condition(net.encode_style(IMAGE, MASK), MASK)
        assert torch.equal(net.denoise(X, T, conditioning), eps)
    # Made in no_grad, it can still be what a gradient in x_t passes by.
    with torch.no_grad():
        kept = net.condition(net.encode_style(IMAGE, MASK), MASK)
    x = X.clone().requires_grad_()
    net.denoise(x, T, kept).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


def loss_and_gradients(module: TrainingModule, call: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
    module.zero_grad(set_to_none=True)
    latents = torch.randn(2, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(1))
    drawn = draw(0, [0, 1], (3, CELLS, CELLS), tiny.DIFFUSION)
    loss = (module if call is None else call)(latents, IMAGE, LABELS, drawn).mean()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def require_equal(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Bit for bit: the same operations in the same order."""
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())


def require_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    # A bias before a norm that takes it away again has a gradient of rounding errors alone: hence the floor.
    floor = 1e-2 * max(gradient.abs().max() for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).abs().max() / gradient.abs().max().clamp(min=floor) < 1e-4, name


def test_gradient_checkpointing_changes_neither_loss_nor_gradients() -> None:
    module = TrainingModule(model(), tiny.DIFFUSION)
    expected = loss_and_gradients(module)
    with Shapes() as plain:
        loss_and_gradients(module)
    module.model.unet.gradient_checkpointing = True
    with Shapes() as again:
        found = loss_and_gradients(module)
    require_equal(found, expected)
    assert len(again.seen) > 1.2 * len(plain.seen), "the forward pass of each block is computed again"


def test_compiled_it_computes_the_same() -> None:
    """The training module as one graph, and the sampling step."""
    module = TrainingModule(tiny.model(), tiny.DIFFUSION)
    expected = loss_and_gradients(module)
    require_same(loss_and_gradients(module, torch.compile(module, fullgraph=True, backend="aot_eager")), expected)
    with torch.inference_mode():
        conditioning = module.model.condition(module.model.encode_style(IMAGE, MASK), MASK)
        step = torch.compile(module.model.denoise, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(step(X, T, conditioning), module.model.denoise(X, T, conditioning))


def test_distributed_it_needs_no_search_for_unused_parameters() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    dist.init_process_group("gloo", rank=0, world_size=1)
    try:
        module = TrainingModule(model(), tiny.DIFFUSION)
        expected = loss_and_gradients(module)
        wrapped = DistributedDataParallel(module, forward_sync_buffers=False)
        # Twice: DDP raises at the second step where a parameter got no gradient in the first.
        for _ in range(2):
            found, gradients = loss_and_gradients(module, wrapped)
            require_equal((found, {name.removeprefix("module."): g for name, g in gradients.items()}), expected)
    finally:
        dist.destroy_process_group()


def test_in_bf16_the_output_stays_close() -> None:
    net = model()
    with torch.inference_mode():
        conditioning = net.condition(net.encode_style(IMAGE, MASK), MASK)
        eps = net.denoise(X, T, conditioning)
        with torch.autocast("cpu", torch.bfloat16):
            half = net.denoise(X, T, net.condition(net.encode_style(IMAGE, MASK), MASK))
    assert half.dtype == torch.bfloat16
    assert 0 < (half.float() - eps).abs().max() / eps.abs().max() < 0.05


def test_in_bf16_norms_take_their_statistics_in_float32() -> None:
    """The mean of 4,096 values near 100: summed in bf16 it would be far off."""
    x = (100 + torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(2))).bfloat16()
    norms = (torch.nn.GroupNorm(2, 8), Spade(8, 4, 2).norm, torch.nn.LayerNorm(64))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = [norm(x).float() for norm in norms]
    with torch.inference_mode():
        for half, norm in zip(found, norms, strict=True):
            torch.testing.assert_close(half, norm(x.float()), rtol=0.01, atol=0.01)


def test_channels_last_memory_changes_nothing() -> None:
    net = model()
    with torch.inference_mode():
        eps = net.denoise(X, T, net.condition(net.encode_style(IMAGE, MASK), MASK))
        channels_last(net)
        conditioning = net.condition(net.encode_style(IMAGE, MASK), MASK)
        torch.testing.assert_close(net.denoise(X, T, conditioning), eps, rtol=1e-4, atol=1e-5)
    finest = conditioning.decoder[-1].spade
    assert finest is not None and finest[0].scale.is_contiguous(memory_format=torch.channels_last)
