"""The learning rate's course."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadm.training.rate import rate


def test_the_warm_up_is_linear() -> None:
    assert [rate(step, 100, 4, "constant") for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(0, 100, 0, "constant") == 1.0


def test_the_cosine_is_half_way_down_in_the_middle_and_ends_near_0() -> None:
    assert rate(50, 100, 0, "cosine") == pytest.approx(0.5)
    assert rate(0, 100, 0, "cosine") == 1.0
    assert 0 < rate(99, 100, 0, "cosine") < 0.001


@given(steps=st.integers(1, 500), warmup=st.integers(0, 50))
def test_after_the_warm_up_it_never_rises(steps: int, warmup: int) -> None:
    rates = [rate(step, steps, warmup, "cosine") for step in range(steps)]
    assert all(0 < value <= 1 for value in rates)
    assert all(later <= earlier for earlier, later in pairwise(rates[max(warmup - 1, 0) :]))
