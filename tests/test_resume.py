"""What is killed goes on where it was: a training, into the same MLflow run and to the same weights; a data stage."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from projects import Project, kill_group, wait_for

pytestmark = pytest.mark.slow

# Forced, because DVC would fetch the result of the first run from its cache.
TRAIN = ("dvc", "repro", "--force", "--single-item", "train")


def _result(project: Project) -> dict[str, str]:
    return json.loads((project.folder / "models/train.json").read_text())


def _again(finished: Project, folder: Path) -> tuple[Project, Path]:
    """A copy of a finished project whose training is still to be done, and the journal of its run."""
    project = finished.copy(folder)
    project.run("rm", "models/train.json")
    return project, project.folder / "storage" / "runs" / _result(finished)["run_key"] / "metrics.jsonl"


def _reaches(journal: Path, step: int) -> None:
    wait_for(f"step {step}", lambda: journal.is_file() and f'"step": {step},' in journal.read_text(), 180)


def _require_one_run(project: Project) -> None:
    """One MLflow run for all starts, with each step once."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == _result(project)["mlflow_run"] and run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(5, 41, 5)), "no step logged twice"


def _resumed_from(said: str) -> list[int]:
    return [int(step) for step in re.findall(r"resuming from step (\d+) of 40, checkpoint \S+", said)]


def test_a_killed_process_group_resumes_to_the_same_weights(finished: Project, tmp_path: Path) -> None:
    project, journal = _again(finished, tmp_path / "project")
    process = project.start(*TRAIN, log=tmp_path / "killed.log")
    _reaches(journal, 25)
    kill_group(process)
    wait_for("the end of all processes", lambda: not project.processes(), 90)
    assert not (project.folder / "models/train.json").exists()

    (step,) = _resumed_from(project.run(*TRAIN).stdout)
    assert 20 <= step < 40
    assert _result(project)["sha256"] == _result(finished)["sha256"]
    _require_one_run(project)
    wait_for("the end of all processes", lambda: not project.processes(), 90)


def test_a_killed_worker_is_restarted_to_the_same_weights(finished: Project, tmp_path: Path) -> None:
    project, journal = _again(finished, tmp_path / "project")
    process = project.start(*TRAIN, log=tmp_path / "log")
    _reaches(journal, 15)
    os.kill(max(project.processes("ray::RayTrainWorker")), signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()[-3000:]
    (step,) = _resumed_from((tmp_path / "log").read_text())
    assert 10 <= step < 40
    assert _result(project)["sha256"] == _result(finished)["sha256"]
    _require_one_run(project)


def test_two_workers_then_one_then_two_train_alike(finished: Project, tmp_path: Path) -> None:
    """The first two by killing the driver alone; the one worker is stopped by SIGTERM, which writes a checkpoint."""
    project, journal = _again(finished, tmp_path / "project")
    process = project.start(sys.executable, "-m", "pipeline.train", log=tmp_path / "two.log")
    _reaches(journal, 15)  # mid-epoch: an epoch is 63 faces, and a step takes 8
    process.kill()
    process.wait()
    wait_for("the end of all workers", lambda: not project.processes("ray::RayTrainWorker"), 90)

    project.set({"cluster.workers": 1})
    process = project.start(sys.executable, "-m", "pipeline.train", log=tmp_path / "one.log")
    _reaches(journal, 25)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    said = (tmp_path / "one.log").read_text()
    (first,) = _resumed_from(said)
    assert 10 <= first < 25 and "SIGTERM: stopping after a checkpoint" in said

    project.set({"cluster.workers": 2})
    (second,) = _resumed_from(project.run(sys.executable, "-m", "pipeline.train").stdout)
    assert second >= 25, "from the checkpoint of the SIGTERM"
    _require_one_run(project)
    ours, theirs = (pd.read_csv(each.folder / "reports/training.csv") for each in (project, finished))
    assert ours["step"].tolist() == theirs["step"].tolist()
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-3)


@pytest.mark.parametrize(
    ("stage", "out", "parts", "changes"),
    [
        ("masks", "data/onehot", "*.parquet", {"masks.rows_per_part": 2}),
        ("latents", "data/shards", "*.tar", {"latents.samples_per_shard": 2}),
    ],
)
def test_a_killed_data_stage_keeps_what_it_had_made(
    finished: Project, tmp_path: Path, stage: str, out: str, parts: str, changes: dict[str, int]
) -> None:
    project = finished.copy(tmp_path / "project")
    project.set(changes)
    command = ("python", "-m", f"pipeline.{stage}")

    def made() -> list[Path]:
        return [path for path in project.folder.glob(f".work/{stage}-*/{parts}") if not path.name.startswith(".")]

    for more in (1, 8):
        already = len(made())
        process = project.start(*command, log=tmp_path / "killed.log")
        wait_for("a part", lambda n=already + more: len(made()) >= n, 120)
        kill_group(process)
        wait_for("the end of all processes", lambda: not project.processes(), 30)
    kept = {path.name: path.stat().st_mtime_ns for path in made()}
    project.run(*command)
    found = {path.name: path for path in (project.folder / out).glob(parts)}
    assert len(found) >= 48 and kept.keys() <= found.keys()
    assert all(found[name].stat().st_mtime_ns == time for name, time in kept.items()), "not made again"

    whole = finished.copy(tmp_path / "whole")
    whole.set(changes)
    whole.run(*command)
    for path in (whole.folder / out).iterdir():
        assert path.read_bytes() == (project.folder / out / path.name).read_bytes(), path.name
