"""The vocabulary of facial parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scadm import faces

OFFICIAL = [
    *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
]


def test_the_official_classes_in_the_official_order() -> None:
    assert list(faces.LABELS) == OFFICIAL
    assert faces.NUM_CLASSES == 19
    assert [faces.LABELS[k] for k in faces.CLASS_ID.values()] == OFFICIAL
    assert faces.PALETTE.shape == (19, 3)
    assert len(np.unique(faces.PALETTE, axis=0)) == 19


def test_mirror_exchanges_left_and_right_parts_alone() -> None:
    assert (faces.MIRROR[faces.MIRROR] == np.arange(19)).all()
    exchanged = {
        frozenset((faces.LABELS[k], faces.LABELS[other])) for k, other in enumerate(faces.MIRROR) if k != other
    }
    assert exchanged == {frozenset(pair) for pair in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"))}
    # u_lip and l_lip are upper and lower: they stay.
    assert faces.MIRROR[faces.CLASS_ID["l_lip"]] == faces.CLASS_ID["l_lip"]


@given(arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3), elements=st.integers(0, 18)))
def test_mirroring_twice_changes_nothing(labels: np.ndarray) -> None:
    mirrored = faces.mirror_labels(labels)
    assert mirrored.dtype == np.uint8
    np.testing.assert_array_equal(faces.mirror_labels(mirrored), labels)
    np.testing.assert_array_equal(mirrored[..., 0], faces.MIRROR[labels[..., -1]])


def test_colourise_paints_the_palette() -> None:
    labels = np.array([[0, 13], [1, 18]], np.uint8)
    np.testing.assert_array_equal(faces.colourise(labels)[0, 1], (0, 0, 204))
    assert faces.colourise(labels).shape == (2, 2, 3)


def test_other_labels_are_refused_by_name() -> None:
    faces.require_labels(list(faces.LABELS), "masks.json")
    other = ["skin", "background", *faces.LABELS[2:]]
    with pytest.raises(ValueError, match=r"masks.json uses the labels \['skin', 'background'.*expected \['background'"):
        faces.require_labels(other, "masks.json")


def test_an_id_that_is_no_class_is_refused() -> None:
    faces.require_ids(np.array([[0, 18]], np.uint8), "7.png")
    faces.require_ids(np.zeros((0, 0), np.uint8), "empty")
    with pytest.raises(ValueError, match=r"7.png holds the label id 19, expected ids 0 to 18"):
        faces.require_ids(np.array([[0, 19]], np.uint8), "7.png")
