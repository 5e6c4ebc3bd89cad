"""A training that is killed goes on from its last checkpoint, into the same MLflow run, to the same weights."""

import json
import re
from pathlib import Path

import pytest
from projects import Project, kill_group, wait_for

pytestmark = pytest.mark.slow

STEPS = 60
# Forced, because DVC would fetch the result of the first run from its cache.
TRAIN = ("dvc", "repro", "--force", "--single-item", "train")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("resume") / "project", changes={"training.steps": STEPS})
    project.run("dvc", "repro", "parser", "latents")
    return project


def _result(project: Project) -> dict[str, str]:
    return json.loads((project.folder / "models/train.json").read_text())


def test_a_killed_process_group_resumes_to_the_same_weights(project: Project, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    project.run(*TRAIN)
    uninterrupted = _result(project)
    project.run("rm", "-rf", "storage", "models/train.json")

    log = tmp_path / "killed.log"
    process = project.start(*TRAIN, log=log)
    journal = project.folder / "storage" / "runs" / uninterrupted["run_key"] / "metrics.jsonl"
    wait_for("step 35", lambda: journal.is_file() and '"step": 35' in journal.read_text(), 120)
    kill_group(process)
    wait_for("the end of all processes", lambda: not project.processes(), 30)
    assert not (project.folder / "models/train.json").exists()

    done = project.run(*TRAIN)
    match = re.search(rf"resuming from step (\d+) of {STEPS}, checkpoint (\S+)", done.stdout)
    assert match, done.stdout[-3000:]
    assert int(match[1]) >= 30
    assert match[2].endswith(f"step-{int(match[1]):08d}")
    assert _result(project)["sha256"] == uninterrupted["sha256"]

    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == _result(project)["mlflow_run"]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(5, STEPS + 1, 5)), "no step logged twice"
    wait_for("the end of all processes", lambda: not project.processes(), 30)
