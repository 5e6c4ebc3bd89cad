"""The pictures that need no model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_faces import ToyFaces

from scadm.evaluation.baselines import MeanColours, own_colours
from scadm.faces import CLASS_ID, LABELS


def test_mean_colours_are_those_of_all_pixels() -> None:
    source = ToyFaces(9)
    found = MeanColours.measure(source, batch_size=4)
    for k in np.unique(source.labels):
        np.testing.assert_allclose(found.colours[k], source.images[source.labels == k].mean(axis=0))
        assert found.pixels[k] == (source.labels == k).sum()


def test_a_class_never_seen_has_the_overall_mean_and_is_stated() -> None:
    source = ToyFaces(3)
    found = MeanColours.measure(source)
    np.testing.assert_allclose(found.colours[CLASS_ID["hat"]], source.images.mean(axis=(0, 1, 2)))
    assert found.unseen == tuple(LABELS[k] for k in range(19) if k not in np.unique(source.labels))


@given(st.integers(1, 9))
def test_mean_colours_do_not_depend_on_the_batching(batch_size: int) -> None:
    source = ToyFaces(7, side=16)
    assert np.array_equal(MeanColours.measure(source, batch_size).colours, MeanColours.measure(source, 7).colours)


def test_no_faces_have_no_mean() -> None:
    with pytest.raises(ValueError, match="holds no pixel"):
        MeanColours.measure(ToyFaces(0))


def test_style_blind_paints_the_mask() -> None:
    source = ToyFaces(4)
    blind = MeanColours.measure(source)
    painted = blind.style_blind(source.labels)
    assert painted.shape == source.images.shape
    assert painted.dtype == np.uint8
    here = source.labels == CLASS_ID["hair"]
    assert (painted[here] == blind.colours[CLASS_ID["hair"]].round()).all()


def test_own_colours_are_each_faces_own() -> None:
    source = ToyFaces(5)
    painted = own_colours(source.images, source.labels)
    for image, label, result in zip(source.images, source.labels, painted, strict=True):
        for k in np.unique(label):
            assert (result[label == k] == image[label == k].mean(axis=0).round()).all()


@given(st.integers(0, 2**32 - 1))
def test_painting_own_colours_twice_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    labels = rng.integers(0, 19, (2, 6, 5), dtype=np.uint8)
    once = own_colours(images, labels)
    assert np.array_equal(own_colours(once, labels), once)


def test_an_unknown_label_does_not_borrow_the_next_faces_colours() -> None:
    labels = np.full((2, 4, 4), 19, dtype=np.uint8)
    with pytest.raises(ValueError, match="label id 19"):
        own_colours(np.zeros((2, 4, 4, 3), dtype=np.uint8), labels)
