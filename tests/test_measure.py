"""Measures and their bootstrap intervals."""

import numpy as np
import pytest
from scipy import stats

from scadm.evaluation.measure import Measure, existing, mean, ratio

VALUES = np.random.default_rng(0).normal(0.6, 0.2, 200)


def test_a_mean_has_the_interval_of_scipy_s_bootstrap() -> None:
    found = mean(VALUES)
    theirs = stats.bootstrap((VALUES,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert found.value == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.003)


def test_a_ratio_is_of_sums_with_the_interval_of_scipy_s_bootstrap() -> None:
    wholes = np.random.default_rng(1).uniform(0.5, 2, len(VALUES))
    parts = VALUES * wholes
    found = ratio(parts, wholes)
    assert found is not None and found.value == pytest.approx(parts.sum() / wholes.sum())
    theirs = stats.bootstrap(
        (parts, wholes),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=1,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.003)


def test_nothing_over_nothing_does_not_exist() -> None:
    assert ratio(np.ones(3), np.zeros(3)) is None
    rare = ratio(np.array([1.0, 0, 0, 0]), np.array([2.0, 0, 0, 0]))
    assert rare == Measure(0.5, 0.5, 0.5), "resamples without that face have no ratio"
    assert existing(a=None, b=Measure(1.0)) == {"b": Measure(1.0)}
