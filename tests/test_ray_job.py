"""`ray job submit` of the training stage, as the README types it, against a Ray head on this machine."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from projects import Project, wait_for

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_ray_job_submit_trains_into_the_project(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    project = Project(tmp_path / "project", changes={"training.steps": 20})
    project.run("dvc", "repro", "latents")
    home = {
        "SCADM_HOME": str(project.folder),
        # A token of this test's own: the default one lies in the user's home and may belong to another Ray.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    (tmp_path / "token").write_text("0" * 64)
    port, dashboard, agent = (_free_port() for _ in range(3))
    os.environ.update(home)
    try:
        # --block keeps the head in this process group, so that ending it ends nobody else's Ray.
        head = project.start(
            *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"),
            *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            "--object-store-memory=200000000",
            log=tmp_path / "head.log",
        )
        wait_for("the Ray head", lambda: "Ray runtime started" in (tmp_path / "head.log").read_text(), 90)
        address = f"http://127.0.0.1:{dashboard}"
        command = ("ray", "job", "submit", "--address", address, "--working-dir", ".")
        # A head that has just started takes some seconds before it accepts jobs, and says so.
        for _ in range(20):
            done = project.run(*command, "--", "python", "-m", "pipeline.train", check=False)
            if "No available agent" not in done.stdout:
                break
            time.sleep(3)
        assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout[-6000:]
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
        for name in home:
            del os.environ[name]
    result = json.loads((project.folder / "models/train.json").read_text())
    assert (project.folder / "storage" / result["weights"] / "manifest.json").is_file()

    # The same stage by DVC finds the run finished, and trains nothing.
    done = project.run("dvc", "repro", "--single-item", "train")
    assert f"run {result['run_key']} is finished" in done.stdout
    assert json.loads((project.folder / "models/train.json").read_text()) == result
