"""Classifier-free guidance, Eq. 4."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from scadm.diffusion.guidance import guide

EPS, NULL = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@given(s=st.floats(0, 5))
def test_it_is_the_published_form_with_a_scale_of_one_plus_s(s: float) -> None:
    torch.testing.assert_close(guide(EPS, NULL, s), NULL + (1 + s) * (EPS - NULL), rtol=1e-4, atol=1e-5)


def test_without_guidance_nothing_changes() -> None:
    assert torch.equal(guide(EPS, NULL, 0.0), EPS)
    assert torch.equal(guide(EPS, EPS, 3.0), EPS)


def test_it_leads_away_from_the_null() -> None:
    assert ((guide(EPS, NULL, 1.2) - NULL).abs() >= (EPS - NULL).abs()).all()
