"""What is killed goes on where it was: a training, into the same MLflow run and to the same weights; a data stage."""

import json
import re
from pathlib import Path

import pytest
from projects import Project, kill_group, wait_for

pytestmark = pytest.mark.slow

# Forced, because DVC would fetch the result of the first run from its cache.
TRAIN = ("dvc", "repro", "--force", "--single-item", "train")


def _result(project: Project) -> dict[str, str]:
    return json.loads((project.folder / "models/train.json").read_text())


def test_a_killed_process_group_resumes_to_the_same_weights(finished: Project, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uninterrupted = _result(finished)
    project = finished.copy(tmp_path / "project")
    project.run("rm", "models/train.json")

    log = tmp_path / "killed.log"
    process = project.start(*TRAIN, log=log)
    journal = project.folder / "storage" / "runs" / uninterrupted["run_key"] / "metrics.jsonl"
    wait_for("step 25", lambda: journal.is_file() and '"step": 25' in journal.read_text(), 120)
    kill_group(process)
    wait_for("the end of all processes", lambda: not project.processes(), 30)
    assert not (project.folder / "models/train.json").exists()

    done = project.run(*TRAIN)
    match = re.search(r"resuming from step (\d+) of 40, checkpoint (\S+)", done.stdout)
    assert match, done.stdout[-3000:]
    assert 20 <= int(match[1]) < 40
    assert match[2].endswith(f"step-{int(match[1]):08d}")
    assert _result(project)["sha256"] == uninterrupted["sha256"]

    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == _result(project)["mlflow_run"]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(5, 41, 5)), "no step logged twice"
    wait_for("the end of all processes", lambda: not project.processes(), 30)


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
