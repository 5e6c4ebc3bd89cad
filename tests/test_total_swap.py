"""A mask in the whole style of another face: parts that the reference lacks."""

import numpy as np
import pytest

from scadm.evaluation.scores import ReadSheet
from scadm.evaluation.sheet import extend
from scadm.evaluation.total_swap import TotalSheet, absent
from scadm.faces import CLASS_ID, NUM_CLASSES

SKIN, HAT = CLASS_ID["skin"], CLASS_ID["hat"]


def test_what_the_reference_lacks() -> None:
    labels = np.zeros((2, 2, 2), dtype=np.uint8)
    labels[:, 0] = SKIN
    hats = labels.copy()
    hats[0, 1, 1] = HAT
    found = absent(hats, labels)
    assert np.argwhere(found).tolist() == [[0, HAT]]
    assert not absent(labels, hats).any(), "what the face itself lacks is not missed"


def read(hat_found: int) -> ReadSheet:
    """Four faces of 100 pixels, 10 of them a hat, of which some are found."""
    confusion = np.zeros((4, NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    confusion[:, SKIN, SKIN] = 90
    confusion[:, HAT, HAT], confusion[:, HAT, SKIN] = hat_found, 10 - hat_found
    features = np.random.default_rng(hat_found).normal(size=(4, 3)).astype(np.float32)
    return ReadSheet(np.arange(4), confusion, {"toy": features})


@pytest.mark.parametrize("lacks", [True, False])
def test_lacking_parts_are_looked_for(lacks: bool) -> None:
    missing = np.zeros((4, NUM_CLASSES), dtype=bool)
    missing[:2, HAT] = lacks
    ways = np.full((4, NUM_CLASSES, 3), 0.1)
    found = extend(TotalSheet, read(4), went=ways / 2, way=ways, absent=missing).summary(read(9), read(10))
    assert found["transfer"].value == pytest.approx(0.5)
    assert ("lacking" in found) == lacks
    if lacks:
        assert (found["lacking"].value, found["lacking_own"].value) == pytest.approx((0.4, 0.9))
    assert {"miou", "accuracy", "frechet_toy", "kernel_toy"} <= set(found)
