"""Stages as jobs of a real Ray on this machine: by `scadm submit`, `ray job submit` and `dvc repro`.

One head, started without a home. A project's nodes see its folder, or have but an S3 store and an MLflow server.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer
from moto.server import ThreadedMotoServer
from projects import Project, wait_for
from ray_nodes import Head, free_port, ray_head, submit_when_ready

pytestmark = pytest.mark.cluster
BUCKET = "faces"


@dataclass(frozen=True)
class Cluster:
    head: Head
    mlflow: str
    s3: str


@pytest.fixture(scope="module")
def cluster(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    nodes = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in nodes}
    os.environ.update(nodes)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        with MlflowServer(folder / "mlflow") as mlflow, ray_head(finished, folder) as head:
            yield Cluster(head, mlflow.uri, nodes["AWS_ENDPOINT_URL"])
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        server.stop()


def objects(prefix: str) -> list[str]:
    """Names of the objects; those that stand for a folder end in a slash, and are left out."""
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    names = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return [name for name in names if not name.endswith("/")]


def jobs_of(project: Project, cluster: Cluster) -> list[str]:
    """Asked by a process of its own: Ray reads but once how it authenticates, and here it may have done so before."""
    program = "import sys; from ray.job_submission import JobSubmissionClient as Client; "
    program += (
        "print(*('job:' + j.submission_id for j in Client(sys.argv[1]).list_jobs() if j.submission_id), sep='\\n')"
    )
    said = project.run(sys.executable, "-c", program, cluster.head.address).stdout
    return [line.removeprefix("job:") for line in said.splitlines() if line.startswith("job:")]


def ended(project: Project, done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def apart(finished: Project, folder: Path, cluster: Cluster, name: str) -> Project:
    """A copy of the finished project whose nodes share no folder."""
    project = finished.copy(folder / "project")
    project.set({"training.steps": 10, "storage.root": f"s3://{BUCKET}/{name}", "tracking.uri": cluster.mlflow})
    for out in ("models/train.json", "reports/training.csv", "reports/validation.csv"):
        (project.folder / out).unlink()
    return project


def test_a_training_without_a_common_folder(finished: Project, tmp_path: Path, cluster: Cluster) -> None:
    project = apart(finished, tmp_path, cluster, "submit")
    project.commit()
    said = ended(project, project.run("scadm", "submit", "train", "--address", cluster.head.address, check=False))
    trained = json.loads((project.folder / "models/train.json").read_text())
    submission = f"scadm-train-{trained['run_key']}"
    assert f"submitting {submission}: " in said and " MB are uploaded" in said and "[train] run key" in said
    assert f"submit/{trained['weights']}/manifest.json" in objects("submit/runs/")
    assert objects("submit/results/") == [f"submit/results/train-{trained['run_key']}/result.json"]
    assert (project.folder / "reports/validation.csv").read_text().startswith("step,loss")
    assert not (project.folder / "storage" / "runs").exists(), "nothing of it is here alone"
    run = MlflowClient(cluster.mlflow).get_run(trained["mlflow_run"])
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.folder, capture_output=True, text=True).stdout
    assert run.data.tags["scadm.ray_submission"] == submission
    assert run.data.tags["scadm.git_commit"] == commit.strip()

    # Again: no job. DVC, which deletes the outs first, gets them back; so does whoever types Ray's own command.
    before = jobs_of(project, cluster)
    again = ended(project, project.run("scadm", "submit", "train", "--address", cluster.head.address, check=False))
    assert f"the job {submission} has done it" in again
    project.set({"cluster.address": cluster.head.address})
    assert "has done it" in ended(project, project.run("dvc", "repro", "--single-item", "train", check=False))
    assert json.loads((project.folder / "models/train.json").read_text()) == trained
    assert jobs_of(project, cluster) == before
    command = ("ray", "job", "submit", "--address", cluster.head.address, "--working-dir", ".", "--")
    typed = ended(project, project.run(*command, "python", "-m", "pipeline.train", check=False))
    assert f"run {trained['run_key']} is finished" in typed


def test_the_pipeline_without_a_common_folder(finished: Project, tmp_path: Path, cluster: Cluster) -> None:
    project = apart(finished, tmp_path, cluster, "repro")
    project.set({"cluster.address": cluster.head.address, "masks.rows_per_part": 24, "autoencoder.training.steps": 20})
    said = ended(project, project.run("dvc", "repro", "evaluate", check=False))
    for stage in ("masks", "latents", "train", "evaluate"):
        assert f"submitting scadm-{stage}-" in said
    assert "submitting scadm-autoencoder" not in said and "submitting scadm-parser" not in said
    assert (project.folder / "reports/faces.csv").is_file() and list((project.folder / "reports/figures").iterdir())
    assert len(list((project.folder / "data/onehot").glob("*.parquet"))) == 4
    assert objects("repro/work/") == [], "parts are kept until the out is there"
    assert json.loads((project.folder / "reports/metrics.json").read_text())["reconstruction"]["model"]
    assert not [path for path in (project.folder / ".work").glob("*") if not path.name.startswith(".")]
    assert "Data and pipelines are up to date" in project.run("dvc", "repro", "evaluate").stdout


def test_a_training_with_a_common_folder(finished: Project, tmp_path: Path, cluster: Cluster) -> None:
    project = finished.copy(tmp_path / "project")
    project.set({"training.steps": 12})
    done = submit_when_ready(project, "scadm", "submit", "train", "--address", cluster.head.address)
    said = ended(project, done)
    trained = json.loads((project.folder / "models/train.json").read_text())
    assert f"submitting scadm-train-{trained['run_key']}" in said and "copied to" not in said
    assert (project.folder / "storage" / trained["weights"] / "manifest.json").is_file()
    assert (project.folder / "storage/results" / f"train-{trained['run_key']}" / "result.json").is_file()

    # A launcher that is interrupted leaves the job to itself; the next one follows it.
    project.set({"training.steps": 60})
    log = tmp_path / "launcher.log"
    # Whoever runs the tests in the background has them ignore SIGINT.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import scadm.app.cli as c; "
    command = ("python", "-c", f"{program} c.main()", "submit", "train", "--address", cluster.head.address)
    launcher = project.start(*command, log=log)
    wait_for("the training", lambda: "run key" in log.read_text(), 120)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=60) == 130
    assert "goes on; the same command follows it again" in log.read_text()
    said = ended(project, project.run("scadm", "submit", "train", "--address", cluster.head.address, check=False))
    assert "is at it already; following it" in said and "submitting" not in said
    assert json.loads((project.folder / "models/train.json").read_text())["run_key"] != trained["run_key"]

    doctor = project.run("scadm", "doctor", check=False, RAY_ADDRESS=cluster.head.address).stdout
    assert f"cluster {cluster.head.address}: it takes jobs; 1 node(s), 2 logical CPUs" in doctor
    project.set({"cluster.workers": 5})
    doctor = project.run("scadm", "doctor", check=False, RAY_ADDRESS=cluster.head.address).stdout
    assert "the cluster answers, but it has 2 CPUs, cluster.workers 5 needs 5" in doctor


def test_a_job_that_fails_says_why_and_the_next_attempt_has_a_number(
    finished: Project, tmp_path: Path, cluster: Cluster
) -> None:
    project = finished.copy(tmp_path / "project")
    project.set({"training.steps": 13, "training.init_from": "imports/none"})
    for attempt in ("", "-2"):
        done = submit_when_ready(project, "scadm", "submit", "train", "--address", cluster.head.address)
        assert done.returncode == 1
        assert "training.init_from is 'imports/none', but none of" in done.stdout, "the job's own words"
        assert f"{attempt} ended as FAILED" in done.stdout
    assert json.loads((project.folder / "models/train.json").read_text())["run_key"], "what was there stays"
