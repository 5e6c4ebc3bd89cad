"""The way from one style to another: even or in a jump, direct or with a detour."""

import numpy as np
import pytest

from scadm.evaluation.interpolation import measure
from scadm.pixels import Images


def ways(*shades: tuple[int, int]) -> list[Images]:
    """Two faces of one shade each, weight by weight."""
    return [np.stack([np.full((4, 4, 3), shade, dtype=np.uint8) for shade in pair]) for pair in shades]


def test_an_even_and_direct_way_is_one_in_both() -> None:
    found = measure([3, 5], ways((0, 10), (20, 40), (40, 70), (60, 100))).summary()
    assert [found[name].value for name in ("evenness", "directness")] == pytest.approx([1, 1])


def test_a_jump_is_uneven_and_a_detour_indirect() -> None:
    found = measure([0, 1], ways((0, 0), (0, 0), (90, 90), (90, 90))).summary()
    assert found["evenness"].value == pytest.approx(1 / 3) and found["directness"].value == pytest.approx(1)
    found = measure([0, 1], ways((0, 0), (60, 60), (120, 120), (60, 60))).summary()
    assert found["evenness"].value == pytest.approx(1) and found["directness"].value == pytest.approx(1 / 3)


def test_a_face_that_does_not_change_has_no_way() -> None:
    assert measure([0, 1], ways((5, 0), (5, 20), (5, 40))).summary() == {}
    sheet = measure([0, 1], ways((5, 0), (6, 20), (7, 40)))
    assert sheet.steps.tolist() == pytest.approx(np.array([[1, 1], [20, 20]]) / 255)
    assert sheet.summary()["evenness"].value == pytest.approx(1)
