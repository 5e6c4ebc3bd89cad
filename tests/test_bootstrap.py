"""Bootstrap intervals: against scipy's, and against the truth."""

import numpy as np
import pytest
from scipy import stats

from scadm.evaluation.bootstrap import interval, resamples


def test_each_draw_is_of_as_many_faces_as_there_are() -> None:
    drawn = resamples(7, 50)
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert (drawn == resamples(7, 50)).all() and (drawn != resamples(7, 51)[1:]).any()


@pytest.mark.parametrize("count", [12, 120, 700])
def test_it_is_scipy_s_percentile_interval(count: int) -> None:
    values = np.random.default_rng(1).gamma(2.0, size=count)  # skewed, as scores of faces are
    found = interval(values)
    given = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    width = given.high - given.low
    assert found == pytest.approx(given, abs=0.08 * width)  # of 2,000 draws a bound's own error is 3 % of the width
    assert found == interval(values.copy())


def test_95_of_100_intervals_hold_the_true_mean() -> None:
    """A little fewer, as of every percentile interval of 40 values: 94 is the theory's."""
    draws = np.random.default_rng(3).normal(0.7, 0.1, size=(400, 40))
    held = [low <= 0.7 <= high for low, high in map(interval, draws)]
    assert 0.91 <= np.mean(held) <= 0.97


def test_of_equal_values_nothing_is_unsure() -> None:
    assert interval(np.full(5, 0.25)) == (0.25, 0.25)
    assert interval(np.array([0.5])) == (0.5, 0.5)
