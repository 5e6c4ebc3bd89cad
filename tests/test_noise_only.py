"""Diversity without a reference."""

import numpy as np
import pytest

from scadm.evaluation.noise_only import PairSheet, diversity
from scadm.evaluation.scores import ReadSheet
from scadm.faces import NUM_CLASSES

COUNT = 6


def read(features: np.ndarray) -> ReadSheet:
    confusion = np.tile(np.eye(NUM_CLASSES, dtype=np.int64), (COUNT, 1, 1))
    return ReadSheet(np.arange(COUNT), confusion, {"toy": features.astype(np.float32)})


def test_it_is_read_against_the_distance_of_real_faces() -> None:
    real = np.random.default_rng(0).normal(size=(COUNT, 5))
    pairs = PairSheet(np.arange(COUNT), {"lpips_toy": np.full(COUNT, 0.3)})
    alike = diversity(read(real), read(np.roll(real, -1, axis=0)), read(real), pairs)
    assert alike["diversity_toy"].value == pytest.approx(1), "as unlike as two real faces"
    assert alike["diversity_lpips_toy"].value == pytest.approx(0.3)
    assert diversity(read(real), read(real), read(real), pairs)["diversity_toy"].value == 0
