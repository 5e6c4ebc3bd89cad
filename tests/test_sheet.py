"""Sheets of faces: joined into the same whole however the faces were cut, and never with a face lost or doubled."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scadm.evaluation.sheet import Sheet, extend, join, require_all


@dataclass(frozen=True)
class Toy(Sheet):
    values: NDArray[np.float64]
    named: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Larger(Toy):
    more: NDArray[np.float64]


def toy(positions: list[int]) -> Toy:
    chosen = np.array(positions, dtype=np.int64)
    return Toy(chosen, chosen * 2.0, {"a": np.stack([chosen, chosen + 1.0], axis=1)})


@given(st.permutations(range(7)), st.lists(st.integers(0, 7), max_size=3).map(sorted))
def test_cut_in_any_way_sheets_join_into_the_whole(order: list[int], cuts: list[int]) -> None:
    parts = [toy(order[a:b]) for a, b in zip([0, *cuts], [*cuts, 7], strict=True)]
    joined, whole = join(parts), toy(list(range(7)))
    assert joined.positions.tolist() == whole.positions.tolist()
    np.testing.assert_array_equal(joined.values, whole.values)
    np.testing.assert_array_equal(joined.named["a"], whole.named["a"])
    require_all(joined, 7, "toy")


def test_a_doubled_face_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positions \[2\] were measured twice"):
        join([toy([0, 2]), toy([2, 3])])


@pytest.mark.parametrize(("positions", "missing"), [([0, 2], r"\[1\]"), ([0, 1], r"\[2\]"), ([0, 1, 2, 3], r"\[\]")])
def test_other_faces_than_the_first_ones_are_refused(positions: list[int], missing: str) -> None:
    with pytest.raises(ValueError, match=rf"expected the first 3; missing positions {missing}"):
        require_all(toy(positions), 3, "toy")


def test_a_sheet_can_be_extended() -> None:
    larger = extend(Larger, toy([0, 1]), more=np.ones(2))
    assert isinstance(larger, Larger) and len(larger) == 2
    np.testing.assert_array_equal(larger.values, toy([0, 1]).values)
