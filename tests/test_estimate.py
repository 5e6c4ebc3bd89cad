"""What a training will cost, before it starts."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from scadm import profiles
from scadm.config import Params, validate
from scadm.faces import NUM_CLASSES
from scadm.models.scadm import SCADM
from scadm.training.estimate import Estimate, describe, estimate

CONF = Path(__file__).resolve().parents[1] / "conf"


@cache
def of_a_tiny_model(**changes: Any) -> Estimate:
    return estimate(tiny.MODEL, 3, tiny.SIDE, tiny.TRAINING.model_copy(update=changes))


@pytest.fixture(scope="module")
def paper() -> Params:
    return validate(yaml.safe_load(profiles.render("celebamask-hq", CONF)), "celebamask-hq")


@pytest.fixture(scope="module")
def estimated(paper: Params) -> Estimate:
    return estimate(paper.model, 3, 256, paper.training)


def test_the_paper_s_model_has_its_parameters(paper: Params, estimated: Estimate) -> None:
    with torch.device("meta"):
        model = SCADM(paper.model, 3)
    unet, style = (sum(p.numel() for p in part.parameters()) for part in (model.unet, model.style_encoder))
    assert unet / 1e6 == pytest.approx(486.9, abs=0.1)
    assert style / 1e6 == pytest.approx(18, abs=0.5)
    assert estimated.parameters == unet + style


def test_a_forward_pass_of_the_paper_s_u_net_is_338_gflop(paper: Params) -> None:
    def forward(form: str) -> tuple[float, float]:
        """GFLOP of the conditioning, and of a whole forward pass."""
        unet = paper.model.unet.model_copy(update={"mask_attention": form})
        with torch.device("meta"), FlopCounterMode(display=False) as flops:
            model = SCADM(paper.model.model_copy(update={"unet": unet}), 3)
            mask, style = torch.empty(1, NUM_CLASSES, 256, 256), torch.empty(1, NUM_CLASSES, 1280)
            conditioning = model.condition(style, mask)
            once = flops.get_total_flops()
            model.denoise(torch.empty(1, 3, 64, 64), torch.zeros(1), conditioning)
        return once / 1e9, flops.get_total_flops() / 1e9

    # The published code computes queries, keys and a softmax that the form `hard` then does not need.
    assert forward("none")[1] == pytest.approx(338, rel=0.01)
    once, whole = forward("hard")
    assert 338 - 9 < whole < 338
    assert once > 73, "SPADE's gamma and beta are not computed at each step"


def test_a_step_costs_three_forward_passes() -> None:
    found = of_a_tiny_model(micro_batch=1)
    model = tiny.model()
    assert found.parameters == sum(p.numel() for p in model.parameters())
    image, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, NUM_CLASSES, 16, 16)
    x_t, t = torch.zeros(1, 3, 4, 4), torch.zeros(1)
    with FlopCounterMode(display=False) as flops:
        model.denoise(x_t, t, model.condition(model.encode_style(image, mask), mask))
    # The backward pass takes the gradients of weights and of inputs, each as costly as the forward pass.
    assert 2.8 < found.flops_per_image / flops.get_total_flops() < 3.1
    assert found.state_bytes == 20 * found.parameters
    assert found.bytes == found.state_bytes + found.activation_bytes


def test_memory_grows_with_the_micro_batch() -> None:
    one = of_a_tiny_model(micro_batch=1).activation_bytes
    assert 3 * one < of_a_tiny_model(micro_batch=4).activation_bytes <= 4 * one


def test_memory_falls_with_bf16() -> None:
    assert (
        of_a_tiny_model(micro_batch=1, precision="bf16").activation_bytes
        < of_a_tiny_model(micro_batch=1).activation_bytes
    )


def test_it_is_said_in_a_person_s_units(paper: Params, estimated: Estimate) -> None:
    said = describe(estimated, paper.training, workers=1, use_gpu=True)
    for part in ("M parameters", "GFLOP an image", "micro-batch of 8", "137000 steps of 48 images", "1 GPU(s)"):
        assert part in said
    assert "the first worker's machine holds up to 9.41 GiB more" in said
    assert estimated.seconds(10, 1e9) == pytest.approx(10 * estimated.flops_per_image / 1e9)
