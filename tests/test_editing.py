"""Swapped hair, on pictures and on a model whose numbers are known."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from scadm.evaluation import editing
from scadm.evaluation.editing import NO_PAIRS, RING, SwapSheet
from scadm.faces import CLASS_ID
from scadm.pixels import Images, Labels
from scadm.synthesis import Synthesiser

HAIR, SKIN = CLASS_ID["hair"], CLASS_ID["skin"]
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


def measured(after: Images, before: Images, references: Images) -> dict[str, float]:
    labels = halves(len(before))
    return editing.score(range(len(before)), before, after, labels, references, labels).summary()


def sheet(seed: int, count: int) -> SwapSheet:
    """Numbers at random, as of pairs that change a little everywhere."""
    rng = np.random.default_rng(seed)
    way = rng.uniform(-0.5, 0.5, (count, 3))
    went = 0.6 * way + rng.normal(0, 0.05, way.shape)
    return SwapSheet(np.arange(count), rng.uniform(0.1, 0.3, count), rng.uniform(0, 0.05, count), went, way)


# --- the numbers ----------------------------------------------------------------------------------------


def test_hair_repainted_exactly_has_arrived_and_leaks_nothing() -> None:
    before, labels = pictures(4), halves(4)
    references = painted(pictures(4, 1), labels, np.random.default_rng(2).integers(0, 256, (4, 3)))
    after = np.where((labels == HAIR)[..., None], references, before)
    found = measured(after, before, references)
    assert list(found) == [
        *("transfer", "transfer_low", "transfer_high", "arrival", "leakage", "leakage_low", "leakage_high")
    ]
    assert [found[name] for name in found if name.startswith(("transfer", "arrival"))] == pytest.approx([1] * 4)
    assert [found[name] for name in found if name.startswith("leakage")] == [0] * 3


def test_a_tint_of_the_whole_picture_leaks_all() -> None:
    before = pictures(3)
    found = measured(before + np.uint8(20), before, pictures(3, 1))
    assert [found[name] for name in ("leakage", "leakage_low", "leakage_high")] == pytest.approx([1] * 3)


def test_where_nothing_changed_there_is_no_leakage_and_no_transfer() -> None:
    before = pictures(3)
    found = measured(before, before, pictures(3, 1))
    assert found == {"transfer": 0, "transfer_low": 0, "transfer_high": 0, "arrival": 0}


def test_where_there_is_no_way_to_go_only_leakage_is_measured() -> None:
    before = pictures(3)
    assert set(measured(before + np.uint8(1), before, before)) == {"leakage", "leakage_low", "leakage_high"}


def test_colour_off_the_way_is_seen_by_arrival_only() -> None:
    labels = halves(2)
    before, references = (painted(pictures(2), labels, np.array([[100, 100, blue]] * 2)) for blue in (100, 150))
    beside = painted(before, labels, np.array([[120, 100, 125]] * 2))
    found = measured(beside, before, references)
    assert found["transfer"] == pytest.approx(0.5)
    assert found["arrival"] == pytest.approx(1 - np.hypot(20, 25) / 50)
    beyond = measured(painted(before, labels, np.array([[100, 100, 200]] * 2)), before, references)
    assert (beyond["transfer"], beyond["arrival"]) == (pytest.approx(2), pytest.approx(0))


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
        inside += change[:, : SIDE // 2 - RING].mean()
        outside += change[:, SIDE // 2 + RING :].mean()
    found = editing.score([0, 1, 2], before, after, labels, references, labels).summary()
    expected = {"transfer": toward / square, "arrival": 1 - missed / length, "leakage": outside / inside}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_interval_is_that_of_a_mean() -> None:
    """With ways of one length the ratio is a mean, whose standard error is known."""
    rng, count = np.random.default_rng(1), 400
    part = rng.normal(0.5, 0.2, count)
    ways = np.tile([1.0, 0, 0], (count, 1))
    found = SwapSheet(np.arange(count), np.ones(count), part, part[:, None] * ways, ways).summary()
    error = 1.96 * part.std(ddof=1) / count**0.5
    for name in ("transfer", "leakage"):
        assert found[name] == pytest.approx(part.mean())
        assert found[f"{name}_low"] == pytest.approx(part.mean() - error, abs=0.1 * error)
        assert found[f"{name}_high"] == pytest.approx(part.mean() + error, abs=0.1 * error)


def test_one_pair_is_too_few() -> None:
    assert sheet(0, 1).summary() == NO_PAIRS.summary() == {}
    assert sheet(0, 2).summary()


# --- the ring -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", [False, True])
def test_the_ring_is_left_out(beyond: bool) -> None:
    before, middle = pictures(2), SIDE // 2
    after = before.copy()
    after[:, :, middle - RING - beyond : middle + RING + beyond] += 20
    change = editing.score([0, 1], before, after, halves(2), before, halves(2))
    assert np.all((change.inside > 0) == beyond)
    assert np.all((change.outside > 0) == beyond)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.005, 0.2))
def test_regions_lie_further_from_the_border_than_the_ring(seed: int, density: float) -> None:
    drawn = np.random.default_rng(seed).random((2, SIDE, SIDE)) < density
    part = maximum_filter(drawn, size=(1, 5, 5))
    inside, outside = editing.regions(np.where(part, HAIR, SKIN).astype(np.uint8))
    window = (1, 2 * RING + 1, 2 * RING + 1)  # beyond the picture's edge there is no border
    assert np.array_equal(inside, ~maximum_filter(~part, size=window, mode="constant", cval=False))
    assert np.array_equal(outside, ~maximum_filter(part, size=window, mode="constant", cval=False))


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
    assert [editing.partner(source, i, 5) for i in (0, 2, 3)] == [2, 3, 0]
    assert editing.partner(source, 2, 3) == 0, "of the first faces only"
    assert editing.partner(Source([12, 0, 0]), 0, 3) is None, "a face is no partner of its own"


def test_a_few_stray_pixels_do_not_show_hair() -> None:
    labels = np.full((2, 20, 20), SKIN, dtype=np.uint8)
    labels[0, 0, :3] = labels[1, 0, :4] = HAIR
    assert editing.shown(labels).tolist() == [False, True]


@pytest.fixture(scope="module")
def synthesiser(tmp_path_factory: pytest.TempPathFactory) -> Synthesiser:
    return tiny.painting(tmp_path_factory.mktemp("model"))


def swapped(synthesiser: Synthesiser, source: Source, ranges: Sequence[range]) -> SwapSheet:
    parts = []
    for positions in ranges:
        images, labels = source.batch(positions)
        before = synthesiser.reconstruct(images, labels, list(positions))
        parts.append(editing.swap(synthesiser, source, list(positions), images, labels, before, len(source)))
    return editing.merge(parts)


def test_faces_are_swapped_with_their_partners_and_seeds(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No hair; too thin to have an inside; all of it, so that nothing is outside; and three that can be measured.
    source = Source([8, 0, 3, 16, 8, 8], tiny.SIDE)
    asked: list[tuple[Any, ...]] = []
    swap = Synthesiser.swap

    def noted(self: Synthesiser, *given: Any) -> Images:
        asked.append(given)
        return swap(self, *given)

    monkeypatch.setattr(Synthesiser, "swap", noted)
    found = swapped(synthesiser, source, [range(6)])
    ((images, labels, references, reference_labels, parts, seeds),) = asked
    faces, partners = [0, 4, 5], [2, 5, 0]
    assert found.positions.tolist() == seeds == faces
    assert parts == ["hair"]
    for got, expected in ((images, source.images), (labels, source.labels)):
        np.testing.assert_array_equal(got, expected[faces])
    for got, expected in ((references, source.images), (reference_labels, source.labels)):
        np.testing.assert_array_equal(got, expected[partners])
    metrics = found.summary()
    for name in ("transfer", "arrival"):
        assert metrics[name] == pytest.approx(1, abs=0.05), "but for the noise that four steps leave"
    assert metrics["leakage"] < 1e-3, "the painter paints what it is told to"


def test_numbers_do_not_depend_on_the_batching(synthesiser: Synthesiser) -> None:
    source = Source([10, 0, 9, 11, 8], tiny.SIDE)
    whole = swapped(synthesiser, source, [range(5)])
    parts = swapped(synthesiser, source, [range(3, 5), range(0, 1), range(1, 3)])
    assert len(whole) == 4
    assert parts.summary() == pytest.approx(whole.summary())


def test_nobody_has_hair(synthesiser: Synthesiser) -> None:
    found = swapped(synthesiser, Source([0, 0], tiny.SIDE), [range(2)])
    assert len(found) == 0 and found.summary() == {}


@settings(max_examples=20, deadline=None)
@given(seeds, st.permutations(range(7)), st.lists(st.integers(0, 7), max_size=3).map(sorted))
def test_sheets_merge_into_the_same_numbers(seed: int, order: list[int], cuts: list[int]) -> None:
    whole = sheet(seed, 7)
    groups = [order[a:b] for a, b in zip([0, *cuts], [*cuts, 7], strict=True)]
    parts = [SwapSheet(*(getattr(whole, name)[group] for name in vars(whole))) for group in groups]
    assert editing.merge(parts).summary() == whole.summary()
    with pytest.raises(ValueError, match=r"positions \[3\] were measured twice"):
        editing.merge([whole, replace(sheet(seed, 1), positions=np.array([3]))])
