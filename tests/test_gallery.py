"""The report's figures: what the model is asked for, and what they show."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from toy_faces import ToyFaces

from scadm.evaluation import gallery
from scadm.evaluation.baselines import MeanColours
from scadm.first_stage import LatentScale, load_first_stage
from scadm.pixels import Images
from scadm.synthesis import Synthesiser

FACES = ToyFaces(5, tiny.SIDE)


def test_figures_say_how_far_they_are_and_interpolate_from_the_reconstruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_autoencoder(tmp_path / "autoencoder")
    synthesiser = Synthesiser(
        model=tiny.model().requires_grad_(False),
        first_stage=load_first_stage(tmp_path / "autoencoder").model,
        scale=LatentScale((0.1, 0.0, -0.1), (0.5, 0.6, 0.4)),
        diffusion=tiny.DIFFUSION,
        sampling=tiny.SAMPLING,
        resolution=tiny.SIDE,
        device=torch.device("cpu"),
    )
    made: list[Images] = []
    columns: list[dict[str, list[Images]]] = []
    synthesise, sheet = Synthesiser.synthesise, gallery.contact_sheet

    def counted(self: Synthesiser, style: torch.Tensor, labels: Images, seeds: list[int]) -> Images:
        made.append(synthesise(self, style, labels, seeds))
        return made[-1]

    monkeypatch.setattr(Synthesiser, "synthesise", counted)
    monkeypatch.setattr(gallery, "contact_sheet", lambda grid: columns.append(grid) or sheet(grid))
    found = gallery.figures(synthesiser, MeanColours.measure(FACES), FACES, 2)

    assert list(found) == ["reconstruction", "swap", "interpolation", "noise_only"]
    assert "24/24" in capsys.readouterr().err, "a bar of all faces, to its end"
    assert [len(images) for images in made] == [2] * 12, "the start of the interpolation is not made again"
    _, _, interpolation, _ = columns
    assert list(interpolation) == ["face", "0 %", "25 %", "50 %", "75 %", "100 %", "source"]
    images, labels = FACES.batch([0, 1])
    other = (images[::-1].copy(), labels[::-1].copy())
    start = synthesiser.interpolate(images, labels, *other, ["hair", "skin", "nose", "neck"], 0.0, [0, 1])
    np.testing.assert_array_equal(interpolation["0 %"], start)
    np.testing.assert_array_equal(interpolation["source"], other[0])
