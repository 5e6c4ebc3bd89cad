"""The training loop, without Ray and without MLflow."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from ranks import run_ranks

from scadm.config import ModelConfig
from scadm.files.checkpoint import checkpoint_name, complete_steps, is_complete, read_checkpoint
from scadm.files.store import Store
from scadm.precision import computes_in_bf16, mixed_precision
from scadm.training.job import TrainJob, Worker
from scadm.training.lease import Lease
from scadm.training.loop import train
from scadm.training.saver import Saver

ALONE = Worker(0, 1, torch.device("cpu"))


def weights(job: TrainJob) -> bytes:
    return (Path(job.run) / "final" / "weights.safetensors").read_bytes()


def metrics(job: TrainJob, name: str) -> list[float]:
    rows = [json.loads(line) for line in (Path(job.run) / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def training(**changes: Any) -> Any:
    return tiny.TRAINING.model_copy(update=changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and autoencoder that all jobs read; a run folder is each test's own."""
    made = tmp_path_factory.mktemp("training")
    tiny.training_job(made)
    return made


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[TrainJob, tiny.Recorder]:
    """A run of eight steps that nothing disturbed."""
    job, hooks = tiny.training_job(folder, run=str(folder / "undisturbed")), tiny.Recorder()
    train(job, ALONE, hooks)
    return job, hooks


def test_a_run_says_and_writes_what_it_does(finished: tuple[TrainJob, tiny.Recorder]) -> None:
    job, hooks = finished
    run = Store(job.run)
    assert is_complete(run / "final")
    assert complete_steps(run) == [6, 8], "the newest two are kept"
    assert hooks.reports == [3, 6, 8]
    assert hooks.steps == 8
    assert not hooks.said
    assert [step for step, row in hooks.logged if "train/loss" in row] == list(range(1, 9))
    assert [step for step, row in hooks.logged if "validation/loss" in row] == [4, 8]
    # Mask, truth, round trip, reconstruction, swapped hair and noise, side by side, for four validation faces.
    assert hooks.pictures == [(8, "samples", (4 * tiny.SIDE, 6 * tiny.SIDE, 3))]
    rates = [row["train/lr"] for _, row in hooks.logged if "train/lr" in row]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 2e-3]), "two steps of warm-up"
    assert len(metrics(job, "train/loss")) == 8


def test_the_final_checkpoint_needs_no_flags(finished: tuple[TrainJob, tiny.Recorder]) -> None:
    job, _ = finished
    tensors, config = read_checkpoint(Store(job.run) / "final", ["weights"])
    assert config["step"] == 8
    assert ModelConfig.model_validate(config["model"]) == job.model
    assert config["latent_mean"] == list(job.scale.mean)
    assert config["autoencoder"] == job.autoencoder_fingerprint
    state, _ = read_checkpoint(Store(job.run) / "checkpoints" / "step-00000008", ["model", "average", "optimiser"])
    for name, tensor in tensors["weights"].items():
        assert torch.equal(tensor, state["average"][name]), "the final weights are the averaged ones"
    assert any(not torch.equal(tensor, state["model"][name]) for name, tensor in tensors["weights"].items())


@pytest.mark.parametrize("kills", [[2], [5], [2, 5, 7, 8]])
def test_a_killed_run_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder], kills: list[int]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    for step in kills:
        with pytest.raises(tiny.Killed):
            train(job, ALONE, tiny.Recorder(kill_after=step))
        assert not is_complete(Store(job.run) / "final")
    hooks = tiny.Recorder()
    train(job, ALONE, hooks)
    last = max(step for step in (0, 3, 6) if step < kills[-1])
    assert bool(hooks.said) == (last > 0)
    if last:
        assert f"resuming from step {last} of 8" in hooks.said[0]
    assert weights(job) == weights(finished[0])
    assert metrics(job, "train/loss") == metrics(finished[0], "train/loss")
    assert metrics(job, "validation/loss") == metrics(finished[0], "validation/loss")


def test_a_run_that_ended_before_its_final_weights_writes_them(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise tiny.Killed

    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    with monkeypatch.context() as patched, pytest.raises(tiny.Killed):
        patched.setattr(Saver, "final", killed)
        train(job, ALONE, tiny.Recorder())
    assert complete_steps(Store(job.run)) == [6, 8] and not is_complete(Store(job.run) / "final")
    hooks = tiny.Recorder()
    train(job, ALONE, hooks)
    assert weights(job) == weights(finished[0])
    assert hooks.reports == [8] and hooks.logged == [], "nothing is logged twice"


def test_a_killed_run_with_dropout_ends_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "a"), model=tiny.with_unet(dropout=0.2))
    train(job, ALONE, tiny.Recorder())
    killed = replace(job, run=str(tmp_path / "b"))
    with pytest.raises(tiny.Killed):
        train(killed, ALONE, tiny.Recorder(kill_after=5))
    train(killed, ALONE, tiny.Recorder())
    assert weights(killed) == weights(job)


def test_a_stop_writes_a_checkpoint_of_its_step_first(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    stopped = tiny.Recorder(stop_after=5)
    train(job, ALONE, stopped)
    assert stopped.reports == [3, 5] and stopped.steps == 5
    assert complete_steps(Store(job.run)) == [3, 5] and not is_complete(Store(job.run) / "final")
    hooks = tiny.Recorder()
    train(job, ALONE, hooks)
    assert "resuming from step 5 of 8" in hooks.said[0]
    assert weights(job) == weights(finished[0])


def test_a_mean_over_steps_before_and_after_a_stop_is_that_of_all(folder: Path, tmp_path: Path) -> None:
    rarely = tiny.MONITORING.model_copy(update={"log_every": 4, "checkpoint_every": 100})
    whole = tiny.training_job(folder, run=str(tmp_path / "whole"), monitoring=rarely)
    train(whole, ALONE, tiny.Recorder())
    job = tiny.training_job(folder, run=str(tmp_path / "run"), monitoring=rarely)
    train(job, ALONE, tiny.Recorder(stop_after=6))
    train(job, ALONE, tiny.Recorder())
    assert len(metrics(job, "train/loss")) == 2
    np.testing.assert_allclose(metrics(job, "train/loss"), metrics(whole, "train/loss"), rtol=1e-6)


def test_before_a_machine_is_lost_a_checkpoint_is_written(folder: Path, tmp_path: Path) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    with pytest.raises(tiny.Killed):
        train(job, ALONE, tiny.Recorder(losing_after=4, kill_after=5))
    assert complete_steps(Store(job.run)) == [3, 4]


def test_the_best_weights_are_kept(finished: tuple[TrainJob, tiny.Recorder]) -> None:
    job, _ = finished
    (step,) = complete_steps(Store(job.run), "best")
    _, config = read_checkpoint(Store(job.run) / "best" / checkpoint_name(step), ["weights"])
    losses = dict(zip((4, 8), metrics(job, "validation/loss"), strict=True))
    assert losses[config["step"]] == config["validation_loss"] == min(losses.values())


def test_a_damaged_checkpoint_is_passed_over(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    with pytest.raises(tiny.Killed):
        train(job, ALONE, tiny.Recorder(kill_after=7))
    (Path(job.run) / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"half")
    hooks = tiny.Recorder()
    train(job, ALONE, hooks)
    assert "resuming from step 3" in hooks.said[0]
    assert weights(job) == weights(finished[0])


def test_a_finished_run_is_left_alone(finished: tuple[TrainJob, tiny.Recorder]) -> None:
    job, _ = finished
    before = {path: path.stat().st_mtime_ns for path in Path(job.run).rglob("*")}
    hooks = tiny.Recorder()
    train(job, ALONE, hooks)
    assert hooks == tiny.Recorder()
    assert {path: path.stat().st_mtime_ns for path in Path(job.run).rglob("*")} == before


def test_what_it_logs_does_not_change_its_result(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    monitoring = tiny.MONITORING.model_copy(
        update={"log_every": 3, "validate_every": 2, "sample_every": 3, "checkpoint_every": 5, "validation_samples": 3}
    )
    job = tiny.training_job(folder, run=str(tmp_path / "run"), monitoring=monitoring, loader_threads=3)
    train(job, ALONE, tiny.Recorder())
    assert weights(job) == weights(finished[0])


def test_the_size_of_a_micro_batch_hardly_changes_the_result(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"), training=training(micro_batch=4))
    train(job, ALONE, tiny.Recorder())
    np.testing.assert_allclose(metrics(job, "train/loss"), metrics(finished[0], "train/loss"), rtol=1e-3)


def test_another_seed_gives_another_result(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"), seed=1)
    train(job, ALONE, tiny.Recorder())
    assert weights(job) != weights(finished[0])


# --- several ranks --------------------------------------------------------------------------------------


def _trains(worker: Worker, job: TrainJob) -> None:
    """On rank 0 the hooks are the only ones whose bar and log are called."""
    hooks = tiny.Recorder()
    train(job, worker, hooks)
    assert hooks.reports == [6, 8], "every rank reports, at the same steps"
    assert bool(hooks.logged) == bool(hooks.pictures) == worker.leads
    assert not {"ray", "mlflow"} & sys.modules.keys(), "the loop knows neither"


def test_two_ranks_train_like_one_and_need_neither_ray_nor_mlflow(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    # The first three steps on one rank: the number of ranks may change at any checkpoint.
    with pytest.raises(tiny.Killed):
        train(job, ALONE, tiny.Recorder(kill_after=4))
    run_ranks(2, tmp_path, _trains, job)
    for name in ("train/loss", "validation/loss", "train/grad_norm"):
        np.testing.assert_allclose(metrics(job, name), metrics(finished[0], name), rtol=2e-3, err_msg=name)


def _stops(worker: Worker, job: TrainJob) -> None:
    hooks = tiny.Recorder(stop_after=None if worker.leads else 0)  # what other ranks do is not counted
    train(job, worker, hooks)
    assert hooks.reports == [1]


def test_any_rank_that_is_told_to_stop_stops_all(folder: Path, tmp_path: Path) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    run_ranks(2, tmp_path, _stops, job)
    assert complete_steps(Store(job.run)) == [1]


def test_ranks_that_cannot_share_a_batch_equally_train_like_one(
    folder: Path, tmp_path: Path, finished: tuple[TrainJob, tiny.Recorder]
) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    with pytest.raises(tiny.Killed):
        train(job, ALONE, tiny.Recorder(kill_after=4))
    run_ranks(3, tmp_path, _trains, job)  # 1, 1 and 2 images of each batch of 4
    for name in ("train/loss", "validation/loss", "train/grad_norm"):
        np.testing.assert_allclose(metrics(job, name), metrics(finished[0], name), rtol=2e-3, err_msg=name)


# --- faults ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_refused_by_step_and_ids(folder: Path, tmp_path: Path) -> None:
    job = tiny.training_job(
        folder, run=str(tmp_path / "run"), training=training(learning_rate=1e30, warmup_steps=0), seed=0
    )
    with pytest.raises(
        ValueError,
        match=r"step \d+: the gradient's norm is nan.*loss of sample\(s\) 0-\d{4} \((nan|inf)\).*learning_rate",
    ) as refused:
        train(job, ALONE, tiny.Recorder())
    assert "it is 1e+30" in str(refused.value)
    assert not is_complete(Store(job.run) / "final")


def test_who_is_no_longer_the_writer_writes_nothing_and_stops(folder: Path, tmp_path: Path) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    with Lease(Store(job.run)), pytest.raises(ValueError, match=r"another launch writes .*run now"):
        train(replace(job, lease="that of an earlier launch"), ALONE, tiny.Recorder())
    assert complete_steps(Store(job.run)) == []


def test_a_checkpoint_of_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    job = tiny.training_job(folder, run=str(tmp_path / "run"))
    with pytest.raises(tiny.Killed):
        train(job, ALONE, tiny.Recorder(kill_after=4))
    other = replace(job, model=tiny.with_unet(spade_channels=6))
    with pytest.raises(ValueError, match=r"step-00000003 does not fit this configuration.*expected \(6, 19, 3, 3\)"):
        train(other, ALONE, tiny.Recorder())


# --- learning -------------------------------------------------------------------------------------------


def test_the_loss_goes_down(folder: Path, tmp_path: Path) -> None:
    monitoring = tiny.MONITORING.model_copy(update={"validate_every": 15, "checkpoint_every": 100})
    job = tiny.training_job(
        folder,
        run=str(tmp_path / "run"),
        training=training(steps=45, batch_size=4, micro_batch=4, learning_rate=1e-2, ema_decay=0.9),
        diffusion=tiny.DIFFUSION.model_copy(update={"timesteps": 1000}),
        monitoring=monitoring,
    )
    train(job, ALONE, tiny.Recorder())
    loss = metrics(job, "train/loss")
    assert np.mean(loss[-15:]) < 0.75 * np.mean(loss[:5])
    validation = metrics(job, "validation/loss")
    assert validation[-1] < validation[0]


def test_precision() -> None:
    cpu = torch.device("cpu")
    a = torch.randn(2, 2)
    with mixed_precision("bf16", cpu)():
        assert (a @ a).dtype == torch.bfloat16
    with mixed_precision("fp32", cpu)():
        assert (a @ a).dtype == torch.float32
    with mixed_precision("auto", cpu)():
        assert (a @ a).dtype == (torch.bfloat16 if computes_in_bf16(cpu) else torch.float32)
