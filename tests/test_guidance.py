"""Classifier-free guidance, Eq. 4."""

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scadm.config import SamplingConfig
from scadm.diffusion.guidance import guide, is_guided

EPS, NULL = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@given(s=st.floats(0, 5))
def test_it_is_the_published_form_with_a_scale_of_one_plus_s(s: float) -> None:
    torch.testing.assert_close(guide(EPS, NULL, s), NULL + (1 + s) * (EPS - NULL), rtol=1e-4, atol=1e-5)


def test_without_guidance_nothing_changes() -> None:
    assert torch.equal(guide(EPS, NULL, 0.0), EPS)
    assert torch.equal(guide(EPS, EPS, 3.0), EPS)


def test_it_leads_away_from_the_null() -> None:
    assert ((guide(EPS, NULL, 1.2) - NULL).abs() >= (EPS - NULL).abs()).all()


def test_an_interval_is_a_part_of_the_timesteps() -> None:
    guided = [t for t in range(1000) if is_guided(t, 1000, (0.2, 0.7))]
    assert guided == list(range(200, 700))
    assert all(is_guided(t, 1000, (0.0, 1.0)) for t in range(1000))


@given(cut=st.floats(0.01, 0.99), t=st.integers(0, 99))
def test_intervals_that_meet_share_no_timestep(cut: float, t: int) -> None:
    assert is_guided(t, 100, (0.0, cut)) != is_guided(t, 100, (cut, 1.0))


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.7, 0.2)])
def test_an_empty_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(
        ValidationError, match=r"guidance_interval is \[0\..*expected \[low, high\] with low below high"
    ):
        SamplingConfig.model_validate({**tiny.SAMPLING.model_dump(), "guidance_interval": interval})


@pytest.mark.parametrize("interval", [(-0.1, 0.5), (0.5, 1.1), (0.5,), (0.1, 0.2, 0.3)])
def test_an_interval_outside_the_timesteps_is_refused(interval: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="guidance_interval"):
        SamplingConfig.model_validate({**tiny.SAMPLING.model_dump(), "guidance_interval": interval})
