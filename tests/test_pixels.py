"""Stored faces as tensors and back."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from scadm.pixels import as_tensor, to_signed, to_stored

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)


@pytest.fixture
def every_warning() -> Iterator[None]:
    """torch says some things once a process; here it says them each time, and each is an error."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(before)


def test_images_come_back_as_they_were() -> None:
    signed = to_signed(IMAGES)
    assert signed.shape == (2, 3, 4, 6)
    assert -1 <= signed.min() < signed.max() <= 1
    np.testing.assert_array_equal(to_stored(signed), IMAGES)


def test_a_read_only_array_is_copied_without_a_warning(every_warning: None) -> None:
    locked = IMAGES.copy()
    locked.flags.writeable = False
    found = as_tensor(locked)
    found += 1
    np.testing.assert_array_equal(locked, IMAGES)
    np.testing.assert_array_equal(to_stored(to_signed(locked)), IMAGES)


def test_another_array_is_not_copied() -> None:
    mine = IMAGES.copy()
    as_tensor(mine)[0, 0, 0, 0] = 7
    assert mine[0, 0, 0, 0] == 7
    turned = as_tensor(mine[:, ::-1])  # torch has no negative strides
    np.testing.assert_array_equal(turned.numpy(), mine[:, ::-1])
