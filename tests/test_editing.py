"""Swapped parts, on pictures and on a model whose numbers are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from scadm.evaluation import editing
from scadm.evaluation.editing import RING, SwapSheet
from scadm.evaluation.measure import Measure
from scadm.evaluation.sheet import join
from scadm.faces import CLASS_ID
from scadm.pixels import Images, Labels
from scadm.synthesis import Synthesiser

HAIR, SKIN, L_EYE, R_EYE = (CLASS_ID[name] for name in ("hair", "skin", "l_eye", "r_eye"))
SIDE = 24
seeds = st.integers(0, 2**32 - 1)


def halves(count: int, side: int = SIDE, hair: int | None = None) -> Labels:
    """Hair at the left, skin at the right."""
    labels = np.full((count, side, side), SKIN, dtype=np.uint8)
    labels[:, :, : side // 2 if hair is None else hair] = HAIR
    return labels


def pictures(count: int, seed: int = 0, side: int = SIDE) -> Images:
    return np.random.default_rng(seed).integers(60, 196, (count, side, side, 3), dtype=np.uint8)


def painted(images: Images, labels: Labels, colours: np.ndarray) -> Images:
    """With the hair of each image in one colour (B, 3)."""
    return np.where((labels == HAIR)[..., None], colours[:, None, None], images).astype(np.uint8)


def measured(after: Images, before: Images, references: Images) -> dict[str, Measure]:
    labels = halves(len(before))
    return editing.score(range(len(before)), before, after, labels, references, labels, [HAIR]).summary()


# --- the numbers ----------------------------------------------------------------------------------------


def test_hair_repainted_exactly_has_arrived_and_leaks_nothing() -> None:
    before, labels = pictures(4), halves(4)
    references = painted(pictures(4, 1), labels, np.random.default_rng(2).integers(0, 256, (4, 3)))
    after = np.where((labels == HAIR)[..., None], references, before)
    found = measured(after, before, references)
    assert list(found) == ["transfer", "arrival", "leakage"], "hair has no other side"
    assert [*found["transfer"], *found["arrival"]] == pytest.approx([1] * 6)
    assert found["leakage"] == (0, 0, 0)


def test_a_tint_of_the_whole_picture_leaks_all() -> None:
    before = pictures(3)
    assert measured(before + np.uint8(20), before, pictures(3, 1))["leakage"] == pytest.approx((1, 1, 1))


def test_where_nothing_changed_there_is_no_leakage_and_no_transfer() -> None:
    before = pictures(3)
    assert measured(before, before, pictures(3, 1)) == {"transfer": (0, 0, 0), "arrival": (0, 0, 0)}


def test_where_there_is_no_way_to_go_only_leakage_is_measured() -> None:
    before = pictures(3)
    assert set(measured(before + np.uint8(1), before, before)) == {"leakage"}


def test_colour_off_the_way_is_seen_by_arrival_only() -> None:
    labels = halves(2)
    before, references = (painted(pictures(2), labels, np.array([[100, 100, blue]] * 2)) for blue in (100, 150))
    beside = painted(before, labels, np.array([[120, 100, 125]] * 2))
    found = measured(beside, before, references)
    assert found["transfer"].value == pytest.approx(0.5)
    assert found["arrival"].value == pytest.approx(1 - np.hypot(20, 25) / 50)
    beyond = measured(painted(before, labels, np.array([[100, 100, 200]] * 2)), before, references)
    assert (beyond["transfer"].value, beyond["arrival"].value) == (pytest.approx(2), pytest.approx(0))


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_the_numbers_are_the_formulas(seed: int) -> None:
    before, after, references = (pictures(3, seed + i) for i in range(3))
    labels = halves(3)
    toward = square = missed = length = inside = outside = 0.0
    for face, swapped, reference in zip(before, after, references, strict=True):
        c_face, c_out, c_ref = (p[:, : SIDE // 2].reshape(-1, 3).mean(axis=0) for p in (face, swapped, reference))
        toward += (c_out - c_face) @ (c_ref - c_face)
        square += (c_ref - c_face) @ (c_ref - c_face)
        missed += np.linalg.norm(c_out - c_ref)
        length += np.linalg.norm(c_ref - c_face)
        change = np.abs(swapped.astype(float) - face)
        inside += change[:, : SIDE // 2].mean()
        outside += change[:, SIDE // 2 + RING :].mean()
    found = editing.score([0, 1, 2], before, after, labels, references, labels, [HAIR]).summary()
    expected = {"transfer": toward / square, "arrival": 1 - missed / length, "leakage": outside / inside}
    assert {name: found[name].value for name in expected} == pytest.approx(expected)
    assert found["arrival"].low < found["arrival"].value < found["arrival"].high  # type: ignore[operator]


def test_of_several_parts_those_that_both_faces_show_count() -> None:
    labels, other_labels = halves(2), halves(2, hair=0)  # the reference has skin only
    before, references = pictures(2), np.full_like(pictures(2), 200)
    after = before.copy()
    after[labels == SKIN] = 200
    found = editing.colour_sheet([0, 1], before, after, labels, references, other_labels, [HAIR, SKIN])
    assert not found.way[:, 0].any() and not found.went[:, 0].any()
    assert found.colours()["transfer"].value == pytest.approx(1)


def test_of_one_eye_the_other_one_is_looked_at() -> None:
    labels = halves(3)
    labels[:, 4:8, 2:6], labels[:, 4:8, 18:22] = L_EYE, R_EYE
    labels[2, 4:8, 18:22] = SKIN  # one face has no other eye
    before = pictures(3)
    after = before.copy()
    after[:, 4:8, 2:6] += 40
    after[:, 4:8, 18:22] += 10
    found = editing.score(range(3), before, after, labels, pictures(3, 1), labels, [L_EYE])
    assert np.isnan(found.other_side).tolist() == [False, False, True]
    assert found.summary()["other_side"].value == pytest.approx(0.25)
    both = editing.score(range(3), before, after, labels, pictures(3, 1), labels, [L_EYE, R_EYE])
    assert "other_side" not in both.summary()


def test_one_pair_is_too_few() -> None:
    before = pictures(1)
    assert measured(before + np.uint8(9), before, pictures(1, 1)) == editing.nothing(1).summary() == {}


# --- the ring -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", [False, True])
def test_the_ring_is_left_out(beyond: bool) -> None:
    before, middle = pictures(2), SIDE // 2
    after = before.copy()
    after[:, :, : middle + RING + beyond] += 20
    change = editing.score([0, 1], before, after, halves(2), before, halves(2), [HAIR])
    assert np.all(change.inside > 0)
    assert np.all((change.outside > 0) == beyond)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.005, 0.2))
def test_a_region_grows_by_the_ring(seed: int, density: float) -> None:
    part = np.random.default_rng(seed).random((2, SIDE, SIDE)) < density
    window = (1, 2 * RING + 1, 2 * RING + 1)
    assert np.array_equal(editing.grown(part), maximum_filter(part, size=window, mode="constant", cval=False))


# --- the pairs ------------------------------------------------------------------------------------------


class Source:
    """Faces in memory, which may have little hair or none."""

    def __init__(self, hair: Sequence[int], side: int = SIDE) -> None:
        """`hair`: columns of it, of each face."""
        self.labels = np.concatenate([halves(1, side, columns) for columns in hair])
        shades = np.arange(len(hair), dtype=np.uint8)[:, None, None, None]
        self.images = pictures(len(hair), 5, side) // 4 + 30 * shades

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        return self.images[list(indices)], self.labels[list(indices)]


def test_the_partner_is_the_next_face_with_hair() -> None:
    source = Source([12, 0, 12, 12, 0])
    assert [editing.partner(source, i, 5, [HAIR]) for i in (0, 2, 3)] == [2, 3, 0]
    assert editing.partner(source, 2, 3, [HAIR]) == 0, "of the first faces only"
    assert editing.partner(Source([12, 0, 0]), 0, 3, [HAIR]) is None, "a face is no partner of its own"


def test_a_few_stray_pixels_do_not_show_hair() -> None:
    labels = np.full((2, 50, 50), SKIN, dtype=np.uint8)
    labels[0, 0, :4] = labels[1, 0, :5] = HAIR
    assert editing.shown(labels, [HAIR]).tolist() == [False, True]


@pytest.fixture(scope="module")
def synthesiser(tmp_path_factory: pytest.TempPathFactory) -> Synthesiser:
    return tiny.painting(tmp_path_factory.mktemp("model"))


def swapped(synthesiser: Synthesiser, source: Source, ranges: Sequence[range]) -> SwapSheet:
    parts = []
    for positions in ranges:
        images, labels = source.batch(positions)
        before = synthesiser.reconstruct(images, labels, list(positions))

        def make(
            chosen: list[int], *reference: Any, images: Images = images, labels: Labels = labels, of: range = positions
        ) -> Images:
            return synthesiser.swap(images[chosen], labels[chosen], *reference, ["hair"], [of[i] for i in chosen])

        parts.append(editing.swap(make, source, list(positions), labels, before, len(source), ["hair"]))
    return join(parts)


def test_faces_are_swapped_with_their_partners_and_seeds(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No hair; all of it, so that nothing is outside; and three that can be measured.
    source = Source([8, 0, 16, 8, 8], tiny.SIDE)
    asked: list[tuple[Any, ...]] = []
    swap = Synthesiser.swap

    def noted(self: Synthesiser, *given: Any) -> Images:
        asked.append(given)
        return swap(self, *given)

    monkeypatch.setattr(Synthesiser, "swap", noted)
    found = swapped(synthesiser, source, [range(5)])
    ((images, labels, references, reference_labels, parts, seeds),) = asked
    faces, partners = [0, 3, 4], [2, 4, 0]
    assert found.positions.tolist() == seeds == faces
    assert parts == ["hair"]
    for got, expected in ((images, source.images), (labels, source.labels)):
        np.testing.assert_array_equal(got, expected[faces])
    for got, expected in ((references, source.images), (reference_labels, source.labels)):
        np.testing.assert_array_equal(got, expected[partners])
    metrics = found.summary()
    for name in ("transfer", "arrival"):
        assert metrics[name].value == pytest.approx(1, abs=0.1), "but for the noise that four steps leave"
    assert metrics["leakage"].value < 1e-3, "the painter paints what it is told to"


def test_numbers_do_not_depend_on_the_batching(synthesiser: Synthesiser) -> None:
    source = Source([10, 0, 9, 11, 8], tiny.SIDE)
    whole = swapped(synthesiser, source, [range(5)])
    parts = swapped(synthesiser, source, [range(3, 5), range(0, 1), range(1, 3)])
    assert len(whole) == 4
    for name, measure in whole.summary().items():
        assert parts.summary()[name] == pytest.approx(measure)


def test_nobody_has_hair(synthesiser: Synthesiser) -> None:
    found = swapped(synthesiser, Source([0, 0], tiny.SIDE), [range(2)])
    assert len(found) == 0 and found.summary() == {}
