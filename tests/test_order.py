"""The order of samples: a pure function of seed and step, for any number of ranks."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadm.data.order import micro_batches, rank_positions, sample_at

SEEDS = st.integers(0, 2**32)


@given(samples=st.integers(1, 60), seed=SEEDS, first=st.integers(0, 5))
def test_every_sample_comes_exactly_once_an_epoch(samples: int, seed: int, first: int) -> None:
    epoch = [sample_at(position, seed, samples) for position in range(first * samples, (first + 1) * samples)]
    assert sorted(epoch) == list(range(samples))


@given(
    samples=st.integers(1, 40),
    batch=st.integers(1, 50),
    share=st.integers(1, 9),
    steps=st.integers(1, 12),
    seed=SEEDS,
)
@settings(deadline=None)
def test_steps_run_on_across_epochs_whatever_the_ranks(
    samples: int, batch: int, share: int, steps: int, seed: int
) -> None:
    ranks = max(1, batch // share)
    seen: list[int] = []
    for step in range(steps):
        parts = [rank_positions(step, batch, rank, ranks) for rank in range(ranks)]
        sizes = {len(part) for part in parts}
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        together = [position for part in parts for position in part]
        assert together == list(rank_positions(step, batch, 0, 1)), "the global batch is the same for one rank"
        seen += together
    assert seen == list(range(steps * batch))
    drawn = Counter(sample_at(position, seed, samples) for position in seen)
    assert max(drawn.values()) - min(drawn[sample] for sample in range(samples)) <= 1


@given(steps=st.integers(1, 10), resumed=st.integers(0, 10), ranks=st.integers(1, 8))
def test_a_resumed_run_sees_what_the_other_would_have_seen(steps: int, resumed: int, ranks: int) -> None:
    def run(first: int, ranks: int) -> list[int]:
        return [
            sample_at(position, 3, 7)
            for step in range(first, steps)
            for rank in range(ranks)
            for position in rank_positions(step, 8, rank, ranks)
        ]

    assert run(0, 1)[8 * min(resumed, steps) :] == run(resumed, ranks)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        return [sample_at(number * 50 + offset, seed, 50) for offset in range(50)]

    assert epoch(0, 0) != list(range(50))
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    assert epoch(0, 0) == epoch(0, 0)


def test_an_order_is_fixed_for_ever() -> None:
    assert [sample_at(position, 0, 6) for position in range(12)] == [3, 2, 5, 4, 0, 1, 1, 4, 3, 0, 2, 5]


@given(share=st.integers(1, 30), size=st.integers(1, 40))
def test_micro_batches_are_complete_and_of_one_size_but_the_last(share: int, size: int) -> None:
    positions = list(range(100, 100 + share))
    parts = micro_batches(positions, size)
    assert [position for part in parts for position in part] == positions
    assert {len(part) for part in parts[:-1]} <= {size}
    assert 1 <= len(parts[-1]) <= size


def test_more_ranks_than_a_batch_has_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 8 cannot be shared by 9 ranks"):
        rank_positions(0, 8, 0, 9)
