"""Random numbers that depend on who they are for, and on nothing else."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadm.diffusion.noise import DROP, DROPOUT, FLIP, NOISE, SAMPLING, TIMESTEP, VALIDATION, generator, normal

STREAMS = [TIMESTEP, NOISE, FLIP, DROP, SAMPLING, VALIDATION, DROPOUT]


@given(positions=st.lists(st.integers(0, 2**40), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_a_row_does_not_depend_on_its_batch(positions: list[int], seed: int) -> None:
    together = normal(seed, NOISE, positions, (2, 3))
    assert together.dtype == torch.float32
    alone = torch.cat([normal(seed, NOISE, [position], (2, 3)) for position in positions])
    assert torch.equal(together, alone)


def test_streams_positions_and_seeds_differ() -> None:
    assert len(set(STREAMS)) == len(STREAMS)
    keys = [(seed, stream, position) for seed in (0, 1) for stream in STREAMS for position in (0, 1, 2)]
    draws = [tuple(generator(*key).standard_normal(4)) for key in keys]
    assert len(set(draws)) == len(keys)


def test_neighbours_do_not_overlap() -> None:
    """A position far along is no shift of another one's numbers."""
    long = generator(0, NOISE, 0).standard_normal(10_000)
    short = generator(0, NOISE, 1).standard_normal(1)
    assert not np.isin(short, long).any()


def test_it_is_standard_normal() -> None:
    rows = normal(5, SAMPLING, list(range(400)), (3, 4, 4))
    assert abs(rows.mean().item()) < 0.03
    assert abs(rows.std().item() - 1) < 0.03
    # One cell over the positions: neighbouring counters give independent numbers.
    correlation = np.corrcoef(rows[:-1, 0, 0, 0], rows[1:, 0, 0, 0])[0, 1]
    assert abs(correlation) < 0.2


def test_the_numbers_are_fixed_for_ever() -> None:
    np.testing.assert_allclose(normal(0, NOISE, [7], (3,))[0], [1.758675, 0.045847, 0.699018], atol=2e-6)
    assert generator(0, TIMESTEP, 7).integers(1000) == 103
