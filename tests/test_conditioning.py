"""The denoising loss under right and wrong conditions, on models of which it is known whether they use them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from torch import nn
from toy_faces import ToyFaces

from scadm.data.loader import collate
from scadm.data.shards import Sample, ShardReader
from scadm.evaluation import conditioning
from scadm.evaluation.conditioning import ROWS, TURNS, LossSheet
from scadm.evaluation.sheet import join
from scadm.first_stage import LatentScale
from scadm.models.scadm import to_one_hot
from scadm.synthesis import Synthesiser
from scadm.training.objective import TrainingModule, device_batch, fixed_draws

COUNT = 5


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """Faces of which `tiny.Painter` knows everything."""
    toys, painter = ToyFaces(COUNT, tiny.SIDE, seed=3), tiny.Painter()
    toys.labels[2, :4, :4] = 14  # a hat, which no other face has
    samples = [Sample(f"{i}", np.empty(0, np.float16), toys.images[i], toys.labels[i]) for i in range(COUNT)]
    for i, sample in enumerate(samples):
        batch = collate([i], [sample._replace(latent=np.zeros((1, 3, 4, 4), np.float16))], [False])
        _, image, labels = device_batch(batch, torch.device("cpu"))
        mask = to_one_hot(labels)
        latent = painter.condition(painter.encode_style(image, mask), mask)
        samples[i] = sample._replace(latent=latent.numpy().astype(np.float16))
    folder = tiny.write_shards(tmp_path_factory.mktemp("conditioning") / "shards", {"validation": samples})
    return ShardReader(str(folder), "validation")


@pytest.fixture(scope="module")
def synthesiser(tmp_path_factory: pytest.TempPathFactory) -> Synthesiser:
    """With a weight of the loss under which no timestep outweighs all others."""
    made = tiny.synthesiser(tmp_path_factory.mktemp("model"))
    diffusion = tiny.DIFFUSION.model_copy(update={"min_snr_gamma": 1.0})
    return replace(made, scale=LatentScale.identity(3), diffusion=diffusion)


def scored(synthesiser: Synthesiser, model: nn.Module, reader: ShardReader, *ranges: range) -> LossSheet:
    subject = replace(synthesiser, model=model)  # type: ignore[arg-type]
    parts = [conditioning.score(subject, reader, part, COUNT, seed=0) for part in ranges or (range(COUNT),)]
    return join(parts)


def test_a_model_that_uses_its_conditions_loses_by_wrong_ones(synthesiser: Synthesiser, reader: ShardReader) -> None:
    found = scored(synthesiser, tiny.Painter(), reader).summary()
    assert list(found) == list(ROWS)
    assert found["own"]["loss"].value < 1e-3, "latents are stored in float16"
    for row in ROWS[1:]:
        rise = found[row]["rise"]
        assert 0 < rise.low < rise.value < rise.high  # type: ignore[operator]
        assert rise.value == pytest.approx(found[row]["loss"].value - found["own"]["loss"].value)


def test_a_model_that_ignores_its_conditions_loses_nothing(synthesiser: Synthesiser, reader: ShardReader) -> None:
    """A new one's last convolution is zero."""
    torch.manual_seed(0)
    found = scored(synthesiser, tiny.SCADM(tiny.MODEL, 3).eval(), reader).summary()
    for row in ROWS[1:]:
        assert found[row]["loss"] == found["own"]["loss"] and found["own"]["loss"].value > 0
        assert found[row]["rise"] == (0, 0, 0)


def test_styles_come_from_the_next_face_but_for_the_classes_that_it_lacks(
    synthesiser: Synthesiser, reader: ShardReader
) -> None:
    painter = tiny.Painter()
    subject = replace(synthesiser, model=painter)  # type: ignore[arg-type]
    conditioning.score(subject, reader, [1, 2, 4], COUNT, seed=0)
    own, mixed, kept = painter.styles
    assert torch.equal(own, kept), "under another mask the style is the face's own"
    _, images, labels = device_batch(
        collate(range(COUNT), [reader[i] for i in range(COUNT)], [False] * COUNT), torch.device("cpu")
    )
    codes = painter.encode_style(images, to_one_hot(labels))
    shown = to_one_hot(labels).amax(dim=(2, 3)) > 0
    for row, face, other in ((0, 1, 2), (1, 2, 3), (2, 4, 0)):
        torch.testing.assert_close(mixed[row][shown[other]], codes[other][shown[other]])
        torch.testing.assert_close(mixed[row][~shown[other]], codes[face][~shown[other]])
    assert shown[2, 14] and not shown[3, 14] and mixed[1, 14].any(), "the hat keeps its own style"


def test_losses_do_not_depend_on_the_batching(synthesiser: Synthesiser, reader: ShardReader) -> None:
    model = tiny.model().requires_grad_(False)
    whole = scored(synthesiser, model, reader)
    parts = scored(synthesiser, model, reader, range(3, 5), range(0, 1), range(1, 3))
    np.testing.assert_array_equal(whole.positions, np.arange(COUNT))
    np.testing.assert_array_equal(parts.positions, np.arange(COUNT))
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-4)


def test_the_own_loss_is_the_training_s(synthesiser: Synthesiser, reader: ShardReader) -> None:
    config = tiny.DIFFUSION.model_copy(update={"prediction": "v", "min_snr_gamma": 5.0})
    subject = replace(synthesiser, diffusion=config)
    found = conditioning.score(subject, reader, [3], COUNT, seed=7)
    batch = collate([3], [reader[3]], [False])
    draws = fixed_draws(7, [3 + turn * COUNT for turn in range(TURNS)], TURNS * COUNT, (3, 4, 4), config)
    many = [tensor.expand(TURNS, *tensor.shape[1:]) for tensor in device_batch(batch, torch.device("cpu"))]
    expected = TrainingModule(subject.model, config)(*many, draws).mean()
    assert found.losses[0, 0] == pytest.approx(float(expected), rel=1e-5)


def test_the_timesteps_of_a_face_are_spread_evenly() -> None:
    for position in range(COUNT):
        positions = [position + turn * COUNT for turn in range(TURNS)]
        drawn = fixed_draws(0, positions, TURNS * COUNT, (3, 4, 4), tiny.DIFFUSION)
        quarters = drawn.t * TURNS // tiny.DIFFUSION.timesteps
        assert quarters.tolist() == list(range(TURNS))
        assert len({float(noise.sum()) for noise in drawn.noise}) == TURNS


def test_the_interval_is_of_the_paired_differences() -> None:
    rng, count = np.random.default_rng(0), 400
    own = rng.uniform(0.1, 2, count)  # faces differ far more than conditions do
    losses = np.stack([own, own + rng.normal(0.05, 0.1, count), own + rng.normal(0, 0.1, count)], axis=1)
    found = LossSheet(np.arange(count), losses).summary()
    for row, column in zip(ROWS[1:], (1, 2), strict=True):
        rises, rise = losses[:, column] - own, found[row]["rise"]
        error = 1.96 * stats.sem(rises)
        assert rise == pytest.approx((rises.mean(), rises.mean() - error, rises.mean() + error), abs=0.1 * error)


def test_one_face_has_nobody_to_take_conditions_from() -> None:
    assert LossSheet(np.arange(1), np.ones((1, 3))).summary() == {}


def test_a_loss_that_is_no_number_is_refused() -> None:
    losses = np.ones((3, 3))
    losses[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"validation positions \[1\] is not a finite number"):
        LossSheet(np.arange(3), losses).summary()


def test_validation_of_the_training_draws_in_the_same_way(tmp_path: Path) -> None:
    from scadm.training.job import Worker
    from scadm.training.validation import Validation

    job = tiny.training_job(tmp_path)
    validation = Validation(job, Worker(0, 1, torch.device("cpu")), print)
    found = [validation.draws(batch) for batch in validation.batches]
    expected = fixed_draws(job.seed, list(range(4)), 4, (3, 4, 4), job.diffusion)
    assert torch.cat([drawn.t for drawn in found]).tolist() == expected.t.tolist() == [12, 37, 62, 87]
    assert torch.equal(torch.cat([drawn.noise for drawn in found]), expected.noise)
