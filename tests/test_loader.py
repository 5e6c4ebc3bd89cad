"""Batches of training samples."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scadm import faces
from scadm.data.loader import Batch, Loader, collate
from scadm.data.order import sample_at
from scadm.data.shards import Sample, ShardReader

COUNT = 7


@pytest.fixture(scope="module")
def rows() -> list[Sample]:
    return tiny.samples(COUNT)


@pytest.fixture(scope="module")
def reader(rows: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder = tmp_path_factory.mktemp("loader") / "shards"
    return ShardReader(str(tiny.write_shards(folder, {"train": rows}, per_shard=3)), "train")


def loader(reader: ShardReader, rank: int = 0, ranks: int = 1, threads: int = 2, seed: int = 5) -> Loader:
    return Loader(reader, seed=seed, batch=4, micro_batch=2, rank=rank, ranks=ranks, threads=threads)


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        [p for part in parts for p in part.positions],
        [name for part in parts for name in part.ids],
        *(np.concatenate([part[i] for part in parts]) for i in (2, 3, 4)),
    )


def same(a: Batch, b: Batch) -> bool:
    return a[:2] == b[:2] and all(np.array_equal(x, y) for x, y in zip(a[2:], b[2:], strict=True))


def test_steps_come_in_order_and_complete(reader: ShardReader, rows: list[Sample]) -> None:
    steps = list(loader(reader).steps(0, 6))
    assert [step for step, _ in steps] == list(range(6))
    assert all(len(parts) == 2 and all(len(part.ids) == 2 for part in parts) for _, parts in steps)
    batches = [joined(parts) for _, parts in steps]
    assert [p for batch in batches for p in batch.positions] == list(range(24))
    names = [name for batch in batches for name in batch.ids]
    assert names == [rows[sample_at(position, 5, COUNT)].id for position in range(24)]
    assert sorted(names[:COUNT]) == sorted(row.id for row in rows)
    assert batches[0].latent.shape == (4, 3, 4, 4)
    assert batches[0].latent.dtype == np.float16
    assert batches[0].image.dtype == batches[0].labels.dtype == np.uint8


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(reader: ShardReader, ranks: int) -> None:
    alone = [joined(parts) for _, parts in loader(reader).steps(0, 5)]
    shared = [[joined(parts) for _, parts in loader(reader, rank, ranks).steps(0, 5)] for rank in range(ranks)]
    for step, batch in enumerate(alone):
        assert same(joined([shared[rank][step] for rank in range(ranks)]), batch)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_resumed_loader_gives_the_rest(reader: ShardReader, first: int) -> None:
    whole = list(loader(reader).steps(0, 6))
    rest = list(loader(reader, threads=1).steps(first, 6))
    assert [step for step, _ in rest] == list(range(first, 6))
    for (_, expected), (_, found) in zip(whole[first:], rest, strict=True):
        assert same(joined(found), joined(expected))


SEGMENTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 8)),
    min_size=1,
    max_size=4,
)
"""A run in pieces, each resumed from the one before: steps, ranks, threads, micro-batch."""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=SEGMENTS, batch=st.sampled_from([4, 8, 12]), start=st.integers(0, 9), seed=st.integers(0, 2**32))
def test_any_run_in_pieces_sees_each_sample_once_an_epoch(
    reader: ShardReader, segments: list[tuple[int, int, int, int]], batch: int, start: int, seed: int
) -> None:
    """Whatever the ranks, threads and micro-batches of each piece, and wherever in which epoch it begins."""
    step, seen = start, list[Batch]()
    for steps, ranks, threads, micro in segments:
        size = math.gcd(micro, batch // ranks)
        loaders = [
            Loader(reader, seed=seed, batch=batch, micro_batch=size, rank=rank, ranks=ranks, threads=threads)
            for rank in range(ranks)
        ]
        shared = [list(each.steps(step, step + steps)) for each in loaders]
        assert {len(rank) for rank in shared} == {steps}, "all ranks take as many steps"
        for parts in zip(*shared, strict=True):
            assert len({found for found, _ in parts}) == 1
            seen += [part for _, rank in parts for part in rank]
        step += steps
    positions = [position for part in seen for position in part.positions]
    assert positions == list(range(start * batch, step * batch))
    names = [name for part in seen for name in part.ids]
    ids = [reader[i].id for i in range(COUNT)]
    assert names == [ids[sample_at(position, seed, COUNT)] for position in positions]
    first = -(-positions[0] // COUNT) * COUNT - positions[0]  # where the first whole epoch begins
    for epoch in range(first, len(names) - COUNT + 1, COUNT):
        assert sorted(names[epoch : epoch + COUNT]) == sorted(ids)
    at = len(seen) // 2  # what a sample holds depends on its position alone
    assert same(seen[at], loader(reader, seed=seed).load(seen[at].positions))


def test_a_flip_mirrors_image_labels_and_takes_the_mirrored_latent(reader: ShardReader, rows: list[Sample]) -> None:
    left, right = faces.CLASS_ID["l_eye"], faces.CLASS_ID["r_eye"]
    flipped = []
    for _, parts in loader(reader).steps(0, 12):
        batch = joined(parts)
        for i, name in enumerate(batch.ids):
            row = next(row for row in rows if row.id == name)
            mirrored = not np.array_equal(batch.image[i], row.image)
            image = row.image[:, ::-1] if mirrored else row.image
            labels = faces.mirror_labels(row.labels) if mirrored else row.labels
            np.testing.assert_array_equal(batch.labels[i], labels)
            np.testing.assert_array_equal(batch.image[i], image)
            np.testing.assert_array_equal(batch.latent[i], row.latent[int(mirrored)])
            if mirrored:  # the left eye is where the right one was, mirrored
                np.testing.assert_array_equal(batch.labels[i] == left, (row.labels == right)[:, ::-1])
            flipped.append(mirrored)
    assert 0.25 < np.mean(flipped) < 0.75
    assert any(a != b for a, b in pairwise(flipped))


def test_samples_with_one_orientation_are_never_flipped(tmp_path: Path) -> None:
    rows = tiny.samples(4, flip=False)
    reader = ShardReader(str(tiny.write_shards(tmp_path / "shards", {"train": rows})), "train")
    for _, parts in loader(reader).steps(0, 6):
        batch = joined(parts)
        for name, labels, latent in zip(batch.ids, batch.labels, batch.latent, strict=True):
            row = next(row for row in rows if row.id == name)
            np.testing.assert_array_equal(labels, row.labels)
            np.testing.assert_array_equal(latent, row.latent[0])


def test_a_fault_of_a_thread_reaches_the_caller(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = loader(reader)

    def fail(positions: list[int]) -> Batch:
        raise OSError("the disk is gone")

    monkeypatch.setattr(broken, "load", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        next(broken.steps(0, 3))


def test_collate_needs_as_many_of_each(rows: list[Sample]) -> None:
    with pytest.raises(ValueError, match="zip"):
        collate([0, 1], rows[:2], [True])
