"""`ray job submit` of the training stage, as the README types it, against a Ray head on this machine."""

import json
from pathlib import Path

import pytest
from projects import Project
from ray_nodes import ray_head, submit_when_ready

pytestmark = pytest.mark.cluster


def test_ray_job_submit_trains_into_the_project(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.set({"training.steps": 20})
    with ray_head(project, tmp_path, home=str(project.folder)) as head:
        command = ("ray", "job", "submit", "--address", head.address, "--working-dir", ".")
        done = submit_when_ready(project, *command, "--", "python", "-m", "pipeline.train")
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout[-6000:]
    result = json.loads((project.folder / "models/train.json").read_text())
    assert (project.folder / "storage" / result["weights"] / "manifest.json").is_file()

    # The same stage by DVC finds the run finished, and trains nothing.
    done = project.run("dvc", "repro", "--single-item", "train")
    assert f"run {result['run_key']} is finished" in done.stdout
    assert json.loads((project.folder / "models/train.json").read_text()) == result
