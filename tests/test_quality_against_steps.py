"""The benchmark of solvers, on a tiny model."""

import json
import math
import sys
from pathlib import Path

import pytest
import tiny
from toy_faces import ToyFaces

from benchmarks import quality_against_steps
from benchmarks.quality_against_steps import KINDS, measure, plans, reference_of
from scadm.files.checkpoint import write_checkpoint
from scadm.files.store import Store
from scadm.synthesis import Synthesiser

FACES = ToyFaces(3, tiny.SIDE)


@pytest.fixture(scope="module")
def synthesiser(tmp_path_factory: pytest.TempPathFactory) -> Synthesiser:
    return tiny.synthesiser(tmp_path_factory.mktemp("quality"))


def test_the_reference_equals_itself(synthesiser: Synthesiser) -> None:
    reference = reference_of(tiny.SAMPLING, tiny.DIFFUSION)
    (row,) = measure(synthesiser, FACES.images, FACES.labels, [reference])
    assert (row.solver, row.steps) == ("ddim", tiny.DIFFUSION.timesteps)
    assert (row.rmse, row.median_rmse, row.psnr, row.ssim) == (0, 0, None, pytest.approx(1))
    assert row.seconds > 0


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_come_closer(synthesiser: Synthesiser, kind: str) -> None:
    chosen = plans(tiny.SAMPLING, tiny.DIFFUSION, [kind], [5, 20, 50])
    few, more, many = measure(synthesiser, FACES.images, FACES.labels, chosen)
    assert few.rmse > more.rmse > many.rmse > 0
    assert few.median_rmse > more.median_rmse > many.median_rmse > 0
    assert all(math.isfinite(row.ssim) for row in (few, more, many))


def test_what_a_spacing_refuses_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = plans(tiny.SAMPLING, tiny.DIFFUSION, ["ddim/published", "ddim/trailing"], [15, 20, 101])
    assert [(plan.spacing, plan.steps) for plan in found] == [("published", 20), ("trailing", 15), ("trailing", 20)]
    assert "without ddim/published in 15 steps: sampling.steps 15 would start at timestep 85" in capsys.readouterr().err


def test_the_program_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthesiser: Synthesiser
) -> None:
    tiny.write_shards(tmp_path / "shards", {"test": tiny.samples(4)})
    config = {
        "model": tiny.MODEL.model_dump(mode="json"),
        "diffusion": tiny.DIFFUSION.model_dump(mode="json"),
        "latent_channels": 3,
        "latent_mean": [0.1, 0.0, -0.1],
        "latent_std": [0.5, 0.6, 0.4],
        "resolution": tiny.SIDE,
        "autoencoder": tiny.write_autoencoder(tmp_path / "autoencoder"),
        "guidance_null": "encoded",
        "step": 1,
    }
    write_checkpoint(Store(str(tmp_path / "final")), {"weights": dict(tiny.model().state_dict())}, config)
    places = {"weights": "final", "autoencoder": "autoencoder", "shards": "shards", "out": "quality"}
    files = [f"--{name}={tmp_path / place}" for name, place in places.items()]
    arguments = ["--faces=2", "--steps", "5", "10", "--kinds", "ddim/published", "dpm-solver++/logsnr"]
    monkeypatch.setattr(sys, "argv", ["quality_against_steps", *files, *arguments])
    quality_against_steps.main()
    tree = json.loads((tmp_path / "quality.json").read_text())
    assert tree["faces"] == 2
    assert [(row["spacing"], row["steps"]) for row in tree["rows"]] == [
        ("published", 5), ("published", 10), ("logsnr", 5), ("logsnr", 10),
    ]  # fmt: skip
    assert (tmp_path / "quality.md").read_text().count("\n| d") == 4


def test_without_a_trained_model_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quality_against_steps", f"--weights={tmp_path}"])
    with pytest.raises(SystemExit, match="error: "):
        quality_against_steps.main()
