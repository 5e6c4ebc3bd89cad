"""The moving average of the weights."""

import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scadm.training import ema


def test_it_warms_up() -> None:
    assert ema.decay_at(0, 0.9999) == 0.1
    assert ema.decay_at(1, 0.9999) == 2 / 11
    assert ema.decay_at(10**9, 0.9999) == 0.9999
    assert ema.decay_at(5, 0.0) == 0.0


@given(step=st.integers(0, 10**7), decay=st.floats(0, 1))
def test_the_decay_is_never_above_its_limit_and_never_falls(step: int, decay: float) -> None:
    assert 0 <= ema.decay_at(step, decay) <= decay
    assert ema.decay_at(step, decay) <= ema.decay_at(step + 1, decay)


def test_update_moves_every_weight_of_the_model() -> None:
    model = tiny.model()
    average = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    assert any(name.startswith("style_encoder.") for name in average), "sampling uses the style encoder too"
    ema.update(average, model, step=0, decay=0.9999)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(average[name], tensor * 0.9)
    assert not any(tensor.requires_grad for tensor in average.values())


def test_it_converges_to_weights_that_stay() -> None:
    model = nn.Linear(2, 2)
    average = {name: torch.full_like(tensor, 9.0) for name, tensor in model.state_dict().items()}
    for step in range(200):
        ema.update(average, model, step, 0.9)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(average[name], tensor.detach(), rtol=0, atol=1e-5)
