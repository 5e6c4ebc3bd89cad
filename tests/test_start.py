"""The weights that a training starts from: whether they fit it, and that it starts from exactly these."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from dvc.utils.hydra import apply_overrides
from torch import Tensor

from scadm import profiles
from scadm.config import Params, TrainingConfig, validate
from scadm.data.loader import Loader
from scadm.data.shards import ShardReader
from scadm.files.checkpoint import read_checkpoint, write_checkpoint
from scadm.files.manifest import Manifest
from scadm.files.store import Store
from scadm.first_stage import LatentScale
from scadm.training.job import TrainJob, Worker
from scadm.training.loop import train
from scadm.training.objective import TrainingModule, device_batch, draw
from scadm.training.start import flags, read_start, setting, settings

ROOT = Path(__file__).resolve().parents[1]
ALONE = Worker(0, 1, torch.device("cpu"))


def params(**sections: dict[str, Any]) -> Params:
    """The profile smoke with tiny's model and diffusion, and changes by section."""
    tree = yaml.safe_load(profiles.render("smoke", ROOT / "conf"))
    tree["project"]["resolution"] = tiny.SIDE
    tree["model"] = tiny.MODEL.model_dump(mode="json")
    tree["diffusion"] = tiny.DIFFUSION.model_dump(mode="json")
    for section, changes in sections.items():
        for key, value in changes.items():
            place = tree[section]
            *path, name = key.split(".")
            for part in path:
                place = place[part]
            place[name] = value
    return validate(tree, "the test's")


def config(**changes: Any) -> dict[str, Any]:
    """A checkpoint's configuration."""
    return {
        "model": tiny.MODEL.model_dump(mode="json"),
        "diffusion": tiny.DIFFUSION.model_dump(mode="json"),
        "latent_channels": 3,
        "latent_mean": [0.3, -0.2, 0.1],
        "latent_std": [0.5, 1.5, 2.0],
        "resolution": tiny.SIDE,
        "autoencoder": "of the test",
        "guidance_null": "zero",
        "step": 5,
        **changes,
    }


def weights() -> dict[str, Tensor]:
    return dict(tiny.model().state_dict())


@pytest.fixture
def initial(tmp_path: Path) -> str:
    place = str(tmp_path / "initial")
    write_checkpoint(Store(place), {"weights": weights()}, config())
    return place


# --- whether they fit -----------------------------------------------------------------------------------


def test_weights_that_fit_bring_their_scale_and_null(initial: str) -> None:
    start = read_start(initial, params(), "of the test")
    assert start == (LatentScale((0.3, -0.2, 0.1), (0.5, 1.5, 2.0)), "zero")


@pytest.mark.parametrize(
    ("section", "key", "value", "flag"),
    [
        ("model", "unet.spade_channels", 6, "model.unet.spade_channels=4"),
        ("model", "unet.mask_attention", "soft", "model.unet.mask_attention=hard"),
        ("model", "unet.attention_at", [1, 2], "'model.unet.attention_at=[1]'"),
        ("model", "style_encoder.scales", 1, "model.style_encoder.scales=2"),
        ("diffusion", "prediction", "v", "diffusion.prediction=epsilon"),
        ("diffusion", "timesteps", 1000, "diffusion.timesteps=100"),
        ("diffusion", "beta_start", 0.001, "diffusion.beta_start=0.0015"),
        ("diffusion", "normalise_latents", False, "diffusion.normalise_latents=True"),
    ],
)
def test_another_model_is_refused_with_the_flags_that_mend_it(
    initial: str, section: str, key: str, value: Any, flag: str
) -> None:
    changed = params(**{section: {key: value}})
    with pytest.raises(ValueError, match=r"are of another model than params\.yaml describes") as refused:
        read_start(initial, changed, "of the test")
    assert f"`dvc exp run -S {flag}`" in str(refused.value), "this one alone"
    assert initial in str(refused.value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "unet.dropout", 0.3),
        ("diffusion", "no_reference", 0.1),
        ("diffusion", "guidance_null", 0.0),
        ("diffusion", "min_snr_gamma", 5.0),
        ("training", "learning_rate", 1.0),
    ],
)
def test_what_belongs_to_a_training_may_change(initial: str, section: str, key: str, value: Any) -> None:
    read_start(initial, params(**{section: {key: value}}), "of the test")


def test_another_autoencoder_is_refused(initial: str) -> None:
    with pytest.raises(ValueError, match=r"autoencoder of the weights in .*initial is of the test, expected another"):
        read_start(initial, params(), "another")


def test_the_flags_are_what_dvc_and_a_shell_read(tmp_path: Path) -> None:
    other = params(
        model={"unet.channels": 16, "unet.attention_at": [1, 2], "unet.mask_resize": "area"},
        diffusion={"beta_start": 1e-5, "normalise_latents": False},
    )
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(other.model_dump(mode="json")))
    empty = config(model=tiny.with_unet(attention_at=()).model_dump(mode="json"))
    odd = r"""/it's \ a, (folder\') = {of} [mine] $HOME: "x"\\"""
    changes = [*settings(empty, other), setting("autoencoder.weights", odd), setting("storage.root", "/plain/a-b_c.d")]
    words = shlex.split(flags(changes))
    assert words[::2] == ["-S"] * len(changes)
    apply_overrides(file, words[1::2])
    found = validate(yaml.safe_load(file.read_text()), "changed")
    assert settings(empty, found) == []
    assert found.model.unet.attention_at == ()
    assert (found.autoencoder.weights, found.storage.root) == (odd, "/plain/a-b_c.d")


# --- the job --------------------------------------------------------------------------------------------


def data() -> Manifest:
    return Manifest(
        stage="latents",
        resolution=tiny.SIDE,
        autoencoder="of the test",
        latent_mean=(9.0, 9.0, 9.0),
        latent_std=(8.0, 8.0, 8.0),
    )


def job_of(initial: str | None, steps: int, **sections: dict[str, Any]) -> TrainJob:
    training = {"steps": steps, "init_from": initial}
    given = params(training=training, **sections)
    return TrainJob.of(given, data(), run="r", shards="s", autoencoder="a", initial=initial)


def test_a_job_sees_latents_as_its_initial_weights_do(initial: str) -> None:
    assert job_of(None, 8).scale == LatentScale((9.0,) * 3, (8.0,) * 3)
    assert job_of(initial, 8).scale == LatentScale((0.3, -0.2, 0.1), (0.5, 1.5, 2.0))
    assert job_of(initial, 0).scale == job_of(initial, 8).scale


def test_only_weights_that_stay_as_they_are_keep_their_null(initial: str) -> None:
    assert job_of(initial, 0).guidance_null == "zero"
    assert job_of(initial, 1).guidance_null == "encoded"
    assert job_of(None, 1).guidance_null == "encoded"


def test_a_job_with_weights_that_do_not_fit_is_refused(initial: str) -> None:
    with pytest.raises(ValueError, match=r"-S diffusion\.prediction=epsilon"):
        job_of(initial, 0, diffusion={"prediction": "v"})


def test_no_steps_need_initial_weights() -> None:
    with pytest.raises(ValueError, match=r"steps is 0, expected at least 1: without training\.init_from"):
        TrainingConfig.model_validate(tiny.TRAINING.model_dump() | {"steps": 0})


# --- the training ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("start")
    tiny.training_job(made)
    return made


def training(folder: Path, run: Path, initial: str, steps: int, **changes: Any) -> TrainJob:
    config = tiny.TRAINING.model_copy(update={"steps": steps, "init_from": initial})
    start = read_start(initial, params(), "of the test")
    return tiny.training_job(
        folder,
        run=str(run),
        initial=initial,
        training=config,
        scale=start.scale,
        guidance_null=start.guidance_null if steps == 0 else "encoded",
        **changes,
    )


def final(job: TrainJob) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, config = read_checkpoint(Store(job.run) / "final", ["weights"])
    return tensors["weights"], config


def rows(job: TrainJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(job.run) / "metrics.jsonl").read_text().splitlines()]


def test_no_steps_end_with_the_initial_weights_bit_for_bit(folder: Path, tmp_path: Path, initial: str) -> None:
    job, hooks = training(folder, tmp_path / "run", initial, 0), tiny.Recorder()
    train(job, ALONE, hooks)
    found, config = final(job)
    expected = weights()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (Path(job.run) / "final" / "weights.safetensors").read_bytes() == (
        Path(initial) / "weights.safetensors"
    ).read_bytes()
    assert (config["guidance_null"], config["step"]) == ("zero", 0)
    assert (config["latent_mean"], config["latent_std"]) == ([0.3, -0.2, 0.1], [0.5, 1.5, 2.0])
    assert hooks.reports == [0]
    assert [row.keys() for row in rows(job)] == [{"step", "time", "validation/loss"}]
    again = tiny.Recorder()
    train(job, ALONE, again)
    assert again == tiny.Recorder(), "finished"


def test_the_first_step_s_loss_is_that_of_the_initial_weights(folder: Path, tmp_path: Path, initial: str) -> None:
    job = training(folder, tmp_path / "run", initial, 2)
    train(job, ALONE, tiny.Recorder())
    module = TrainingModule(tiny.model(), job.diffusion)
    loader = Loader(ShardReader(job.shards, "train"), seed=0, batch=4, micro_batch=2, rank=0, ranks=1, threads=1)
    _, parts = next(iter(loader.steps(0, 1)))
    expected = 0.0
    with torch.no_grad():
        for part in parts:
            latent, image, labels = device_batch(part, ALONE.device)
            draws = draw(job.seed, part.positions, tuple(latent.shape[1:]), job.diffusion)
            expected += module(job.scale.to_model(latent), image, labels, draws).mean().item() / len(parts)
    assert rows(job)[0]["train/loss"] == pytest.approx(expected, rel=1e-5)
    other = replace(job, run=str(tmp_path / "other"), initial=None)
    train(other, ALONE, tiny.Recorder())
    assert rows(other)[0]["train/loss"] != pytest.approx(expected, rel=1e-2), "from weights of its own"
    found, config = final(job)
    assert config["guidance_null"] == "encoded"
    assert any(not torch.equal(found[name], tensor) for name, tensor in weights().items())


def test_a_resumed_training_does_not_ask_for_its_initial_weights_again(
    folder: Path, tmp_path: Path, initial: str
) -> None:
    undisturbed = training(folder, tmp_path / "a", initial, 6)
    train(undisturbed, ALONE, tiny.Recorder())
    job = training(folder, tmp_path / "b", initial, 6)
    with pytest.raises(tiny.Killed):
        train(job, ALONE, tiny.Recorder(kill_after=4))
    shutil.rmtree(initial)
    hooks = tiny.Recorder()
    train(job, ALONE, hooks)
    assert "resuming from step 3 of 6" in hooks.said[0]
    for name, tensor in final(undisturbed)[0].items():
        assert torch.equal(final(job)[0][name], tensor), name


def test_initial_weights_of_another_architecture_are_refused_by_name(
    folder: Path, tmp_path: Path, initial: str
) -> None:
    job = training(folder, tmp_path / "run", initial, 2, model=tiny.with_unet(spade_channels=6))
    with pytest.raises(ValueError, match=r"initial does not fit this configuration.*expected \(6, 19, 3, 3\)"):
        train(job, ALONE, tiny.Recorder())
    assert not (Path(job.run) / "final").exists()
