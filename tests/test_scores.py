"""Scores of pictures: their numbers, their intervals, and that they do not depend on how the faces were cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toy_faces import ToyFaces

from scadm.config import ParserConfig
from scadm.evaluation import metrics
from scadm.evaluation.networks import Networks
from scadm.evaluation.parsers import SmallParser
from scadm.evaluation.scores import Judges, ScoreSheet
from scadm.evaluation.sheet import join
from scadm.models.parser import FaceParser

FACES = ToyFaces(12, side=16)
PICTURES = (FACES.images + np.random.default_rng(0).integers(-30, 30, FACES.images.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    network = FaceParser(ParserConfig(channels=4, multipliers=(1, 2)))
    return Judges(SmallParser(network, resolution=16), Networks(None, None))


def scored(judges: Judges, *parts: list[int]) -> ScoreSheet:
    return join([judges.score(part, PICTURES[part], FACES.labels[part], FACES.images[part]) for part in parts])


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)), cut=st.integers(1, 11))
def test_numbers_do_not_depend_on_the_batching(judges: Judges, order: list[int], cut: int) -> None:
    whole, parts = scored(judges, list(range(12))), scored(judges, order[:cut], order[cut:])
    assert parts.likeness() == whole.likeness()
    assert parts.obedience() == whole.obedience()
    assert parts.distances(whole) == whole.distances(whole)


def test_means_are_of_all_faces_and_iou_of_all_pixels(judges: Judges) -> None:
    sheet = scored(judges, list(range(12)))
    found = sheet.likeness() | sheet.obedience()
    assert list(found) == ["ssim", "psnr", "miou", "accuracy"]
    assert found["ssim"].value == pytest.approx(metrics.ssim(PICTURES, FACES.images).mean())
    total = metrics.confusion_matrix(judges.parser.parse(PICTURES), FACES.labels)
    assert found["miou"].value == metrics.mean_iou(total)
    assert all(measure.low < measure.value < measure.high for measure in found.values())  # type: ignore[operator]


def test_the_interval_of_a_miou_is_that_of_scipy_s_bootstrap(judges: Judges) -> None:
    sheet = scored(judges, list(range(12)))

    def miou(chosen: np.ndarray) -> float:
        return metrics.mean_iou(sheet.confusion[chosen].sum(axis=0))

    faces = np.arange(12)
    theirs = stats.bootstrap((faces,), miou, vectorized=False, method="percentile", n_resamples=2000, rng=0)
    found = sheet.obedience()["miou"]
    spread = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * spread)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * spread)


def test_each_face_has_its_own_numbers(judges: Judges) -> None:
    by_face = scored(judges, list(range(12))).by_face()
    assert list(by_face) == ["ssim", "psnr", "miou", "accuracy"]
    alone = scored(judges, [5])
    assert by_face["miou"][5] == metrics.mean_iou(alone.total)
    assert by_face["ssim"][5] == alone.ssim[0]


def test_pictures_that_equal_the_real_ones_have_no_psnr(judges: Judges) -> None:
    sheet = judges.score([0, 1], FACES.images[:2], FACES.labels[:2], FACES.images[:2])
    assert sheet.likeness().keys() == {"ssim"} and sheet.likeness()["ssim"].value == pytest.approx(1)


def test_pictures_of_another_size_are_refused(judges: Judges) -> None:
    with pytest.raises(ValueError, match=r"the pictures are \(1, 16, 16, 3\), expected \(2, 16, 16, 3\)"):
        judges.score([0, 1], FACES.images[:1], FACES.labels[:2], FACES.images[:2])
