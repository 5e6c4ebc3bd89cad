"""A published checkpoint taken in by the command line, then evaluated and fine-tuned as the command says."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import published
import pytest
import tiny  # noqa: F401  (one thread)
import torch
from projects import Project

from scadm import profiles
from scadm.app import cli
from scadm.diffusion.schedule import Schedule
from scadm.files.checkpoint import read_checkpoint
from scadm.files.store import Store
from scadm.import_checkpoint import Import, import_checkpoint
from scadm.interop import DIFFUSION, FIRST_STAGE, first_stage_from_published
from scadm.stage import Stage

ROOT = Path(__file__).resolve().parents[1]


class Callback:
    """What Lightning pickles beside the weights; unpickled as it asks, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def state(reference: Path) -> published.State:
    """The small network, its first stage and its schedule."""
    first_stage = {FIRST_STAGE + key: tensor for key, tensor in published.small_vq_state(reference).items()}
    return published.small_state(reference) | first_stage | {"alphas_cumprod": Schedule(DIFFUSION).alpha_bar}


# --- taking it in ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the command needs of a project, as the current folder."""
    folder = tmp_path / "project"
    for name in ("scadm", ".dvc"):
        (folder / name).mkdir(parents=True)
    (folder / "scadm" / "__init__.py").touch()
    for name in ("dvc.yaml", "conf"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    profiles.write("smoke")
    yield folder


def written(state: published.State, folder: Path, **changes: Any) -> Path:
    torch.save({"state_dict": {**state, **changes}}, folder / "sca-dm.ckpt")
    return folder / "sca-dm.ckpt"


def lacking(state: published.State, prefix: str) -> published.State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


def test_what_does_not_fit_is_one_message_and_leaves_nothing(
    folder: Path,
    state: published.State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["scadm", "import-checkpoint", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()
        assert shown.out == ""
        assert not (folder / "storage").exists()
        return line

    assert "does not exist, expected a checkpoint file" in refused(tmp_path / "none.ckpt")
    file = written({"fc.weight": torch.zeros(2, 2)}, tmp_path)
    assert "expected the published U-Net" in refused(file)
    file = written(state, tmp_path)
    for resolution in ("100", "0", "-64"):
        line = refused(file, "--resolution", resolution)
        assert f"the resolution is {resolution}, expected a multiple of 64" in line
    missing = refused(file, "--resolution", "64", "--first-stage", "none")
    assert "is 'none', expected a folder with a diffusers VQModel" in missing
    file = written(state, tmp_path, alphas_cumprod=torch.linspace(1, 0, 1000))
    assert "alphas_cumprod has 1000 steps and ends at 0, expected" in refused(file, "--resolution", "64")
    file = written(state, tmp_path, alphas_cumprod=Schedule(DIFFUSION).alpha_bar[:500])
    assert "alphas_cumprod has 500 steps" in refused(file, "--resolution", "64")
    file = written(lacking(state, FIRST_STAGE), tmp_path)
    assert f"holds no {FIRST_STAGE}*" in (line := refused(file, "--resolution", "64")) and "--first-stage" in line
    four = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3),
        "model.diffusion_model.out.2.weight": torch.zeros(4, 32, 3, 3),
        "model.diffusion_model.out.2.bias": torch.zeros(4),
    }
    file = written(state, tmp_path, **four)
    assert "gives latents of 3 channels, expected the 4 that the U-Net" in refused(file, "--resolution", "64")


def test_each_resolution_and_first_stage_is_an_import_of_its_own(
    folder: Path, state: published.State, tmp_path: Path
) -> None:
    """None of them changes what another one has registered."""
    file, stage = written(state, tmp_path), Stage("train")

    def take(resolution: int, first_stage: Path | None = None) -> Import:
        return import_checkpoint(file, stage, resolution=resolution, first_stage=first_stage, name="published")

    first = take(64)
    weights = Path(first.weights) / "weights.safetensors"
    before = weights.stat().st_mtime_ns, read_checkpoint(Store(first.weights), [])
    assert first.version.uri == "models:/published/1"
    again, larger = take(64), take(128)
    assert again == first
    assert larger.version.uri == "models:/published/2"
    assert larger.key != first.key
    assert read_checkpoint(Store(larger.weights), [])[1]["resolution"] == 128
    assert (weights.stat().st_mtime_ns, read_checkpoint(Store(first.weights), [])) == before
    assert take(64, first.autoencoder / "vq-f4") == first, "the same first stage, named"
    other = {key: tensor + 1e-3 for key, tensor in state.items() if key.startswith(FIRST_STAGE)}
    first_stage_from_published(other).model.save_pretrained(tmp_path / "other")
    assert take(64, tmp_path / "other").key not in (first.key, larger.key)


# --- what people do with it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    copied = finished.copy(tmp_path_factory.mktemp("imported") / "project")
    # Fewer processes to start; nothing of this section changes a result.
    copied.set({"cluster.workers": 0, "cluster.data_workers": 1})
    copied.commit()
    return copied


@pytest.mark.slow
def test_a_file_that_is_none_ends_the_command_with_one_message(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "sca-dm.ckpt"
    file.write_text("<html>too many users have viewed or downloaded this file recently</html>")
    done = project.run("scadm", "import-checkpoint", str(file), check=False)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"error: {file} cannot be read as a checkpoint")
    assert not (project.folder / "storage").exists()


def imports(project: Project) -> list[Path]:
    return sorted((project.folder / "storage" / "imports").glob("*"))


def final(project: Project) -> Path:
    """The final checkpoint of the last training."""
    trained = json.loads((project.folder / "models" / "train.json").read_text())
    return project.folder / "storage" / trained["weights"]


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def said(project: Project, state: published.State, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the command says of a file that it takes in."""
    folder = tmp_path_factory.mktemp("given")
    file, ran = folder / "epoch=000235.ckpt", folder / "ran"
    torch.save({"callbacks": Callback(ran), "state_dict": state, "epoch": 235}, file)
    done = project.run("scadm", "import-checkpoint", str(file), "--resolution", "64")
    assert not ran.exists()
    before = {path: path.read_bytes() for path in (project.folder / "storage" / "imports").rglob("*.*")}
    again = project.run("scadm", "import-checkpoint", str(file), "--resolution", "64")
    told = [
        re.search(r"models:/sca-dm-published/1 is epoch=000235\.ckpt.*", d.stdout, re.DOTALL) for d in (done, again)
    ]
    assert told[0] and told[1] and told[0][0] == told[1][0], "importing again changes nothing"
    assert {path: path.read_bytes() for path in (project.folder / "storage" / "imports").rglob("*.*")} == before
    return done.stdout


def command(said: str) -> str:
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith("dvc exp run")]
    return line


@pytest.mark.slow
def test_it_becomes_one_version_in_the_registry(project: Project, said: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    (version,) = client.search_model_versions("name = 'sca-dm-published'")
    assert version.description and "non-commercial research only" in version.description
    (folder,) = imports(project)
    assert f"its weights are in {folder}/final" in said
    _, config = read_checkpoint(Store(f"{folder}/final"), ["weights"])
    assert (config["guidance_null"], config["latent_mean"], config["resolution"]) == ("zero", [0.0] * 3, 64)


@pytest.mark.slow
def test_the_command_that_it_prints_evaluates_the_weights_as_they_are(project: Project, said: str) -> None:
    done = project.run("bash", "-c", command(said))
    for stage in ("autoencoder", "latents", "train", "evaluate", "register"):
        assert f"Running stage '{stage}'" in done.stdout
    for stage in ("download", "masks", "parser"):
        assert f"Running stage '{stage}'" not in done.stdout, "nothing of these has changed"
    rows = json.loads((project.folder / "reports/metrics.json").read_text())["reconstruction"]
    assert set(rows) == {"style_blind", "own_colours", "model", "ceiling"}
    (imported,) = imports(project)
    assert weights(final(project)) == weights(imported / "final")
    _, config = read_checkpoint(Store(str(final(project))), [])
    assert (config["guidance_null"], config["step"]) == ("zero", 0)
    registration = json.loads((project.folder / "reports/registration.json").read_text())
    assert registration["model"] == "sca-dm-synthetic-smoke-64"
    assert (project.folder / "reports/index.html").is_file()


@pytest.mark.slow
def test_with_steps_it_fine_tunes(project: Project, said: str) -> None:
    changed = command(said).replace("training.steps=0", "training.steps=2")
    project.run("bash", "-c", f"{changed} train")
    (imported,) = imports(project)
    assert weights(final(project)) != weights(imported / "final")
    _, config = read_checkpoint(Store(str(final(project))), [])
    assert (config["guidance_null"], config["step"], config["latent_mean"]) == ("encoded", 2, [0.0] * 3)
