"""The small face parser and its training."""

import numpy as np
import pytest
import torch
from toy_faces import ToyFaces

from scadm import faces
from scadm.config import FitConfig, ParserConfig, ParserStageConfig
from scadm.models.parser import FaceParser
from scadm.pixels import to_signed, to_unit
from scadm.training.parser import fit_parser, parsing_loss


def config(steps: int = 60, rate: float = 1e-2) -> ParserStageConfig:
    return ParserStageConfig(
        kind="small",
        weights=None,
        weights_sha256=None,
        network=ParserConfig(channels=8, multipliers=(1, 2, 4)),
        training=FitConfig(steps=steps, batch_size=4, learning_rate=rate, precision="fp32"),
    )


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 4)])
def test_shapes(multipliers: tuple[int, ...]) -> None:
    parser = FaceParser(ParserConfig(channels=6, multipliers=multipliers))
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    logits, features = parser.parse(image)
    assert logits.shape == (2, faces.NUM_CLASSES, 16, 24)
    assert features.shape == (2, parser.num_features) == (2, 6 * multipliers[-1])
    torch.testing.assert_close(parser(image), logits)
    torch.testing.assert_close(parser.features(image), features)


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="18 x 16, expected both divisible by 8"):
        FaceParser(ParserConfig(channels=4, multipliers=(1, 2, 4)))(torch.zeros(1, 3, 18, 16))


def test_it_learns_to_tell_parts_and_sides_apart() -> None:
    seen = []
    parser, history = fit_parser(ToyFaces(32), config(90), 0, lambda step, loss: seen.append((step, loss)))
    assert [row["step"] for row in history] == list(range(1, 91))
    assert seen == [(row["step"], row["loss"]) for row in history]
    assert history[-1]["loss"] < history[0]["loss"] / 5
    images, labels = ToyFaces(8, seed=0).batch(range(8))
    with torch.inference_mode():
        found = parser(to_signed(images)).argmax(dim=1).numpy()
    for name in ("l_eye", "r_eye", "hair", "cloth"):
        here = labels == faces.CLASS_ID[name]
        assert (found[here] == faces.CLASS_ID[name]).mean() > 0.8, name


def test_training_is_determined_by_its_seed() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    runs = [fit_parser(ToyFaces(6), config(4), seed) for seed in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state was touched"
    weights = [torch.cat([p.flatten() for p in parser.parameters()]) for parser, _ in runs]
    assert torch.equal(weights[0], weights[1])
    assert runs[0][1] == runs[1][1]
    assert not torch.equal(weights[0], weights[2])


def test_fewer_faces_than_a_batch_and_one_step_are_enough() -> None:
    _, history = fit_parser(ToyFaces(1), config(1), 0)
    assert len(history) == 1


def test_no_faces_are_refused() -> None:
    with pytest.raises(ValueError, match="holds no faces"):
        fit_parser(ToyFaces(0), config(1), 0)


def test_a_diverged_run_is_refused_by_its_rate() -> None:
    with pytest.raises(ValueError, match=r"loss is nan at step \d+.*learning_rate \(it is 1e\+30\)"):
        fit_parser(ToyFaces(4), config(20, rate=1e30), 0)


def test_an_unknown_label_is_refused() -> None:
    source = ToyFaces(2)
    source.labels[0, 0, 0] = 19
    with pytest.raises(ValueError, match="label id 19"):
        fit_parser(source, config(1), 0)


def test_the_loss_is_zero_for_a_sure_and_right_answer_only() -> None:
    labels = torch.tensor([[[0, 1], [1, 18]]])
    sure = 50.0 * torch.nn.functional.one_hot(labels, faces.NUM_CLASSES).movedim(-1, 1).float()
    assert parsing_loss(sure, labels).item() < 1e-6
    assert parsing_loss(-sure, labels).item() > 1


def test_pixels_map_to_the_ranges_of_networks() -> None:
    images = np.zeros((1, 2, 3, 3), dtype=np.uint8)
    images[0, 0, 0] = (0, 255, 51)
    assert to_unit(images).shape == (1, 3, 2, 3)
    np.testing.assert_allclose(to_unit(images)[0, :, 0, 0], [0, 1, 0.2], atol=1e-7)
    np.testing.assert_allclose(to_signed(images)[0, :, 0, 0], [-1, 1, -0.6], atol=1e-6)
