"""`python -m scadm.training`: the training without Ray and MLflow, in one process or under torchrun."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from projects import Project, wait_for

from scadm.files.checkpoint import complete_steps, is_complete
from scadm.files.store import Store
from scadm.stopping import Stop
from scadm.training.__main__ import TerminalHooks

pytestmark = pytest.mark.slow

BLOCKED = "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None; import runpy; sys.argv = sys.argv[1:]; "
BLOCKED += "runpy.run_module('scadm.training', run_name='__main__', alter_sys=True)"


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = finished.copy(tmp_path_factory.mktemp("bare") / "project")
    project.set({"training.steps": 12, "monitoring.checkpoint_every": 4, "cluster.workers": 1})
    return project


def test_it_trains_where_neither_ray_nor_mlflow_is_and_resumes_what_was_stopped(
    project: Project, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    project.run(sys.executable, "-c", BLOCKED, "-", str(whole))
    assert is_complete(Store(str(whole)) / "final") and complete_steps(Store(str(whole)), "best")
    assert (whole / "samples" / "00000012.webp").is_file()

    process = project.start(sys.executable, "-c", BLOCKED, "-", str(stopped), log=tmp_path / "log")
    journal = stopped / "metrics.jsonl"
    wait_for("step 5", lambda: journal.is_file() and '"step": 5' in journal.read_text(), 120)
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=120)
    said = (tmp_path / "log").read_text()
    assert "SIGTERM: stopping after a checkpoint" in said and "Traceback" not in said, said
    assert status == 128 + signal.SIGTERM
    (newest,) = complete_steps(Store(str(stopped)))[-1:]
    assert 5 <= newest < 12
    done = project.run(sys.executable, "-c", BLOCKED, "-", str(stopped))
    assert f"resuming from step {newest} of 12" in done.stdout
    final = "final/weights.safetensors"
    assert (stopped / final).read_bytes() == (whole / final).read_bytes()


def test_a_picture_that_does_not_fit_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples").write_text("no folder")
    TerminalHooks(tmp_path, Stop()).picture(5, "samples", np.zeros((4, 4, 3), np.uint8))
    assert "warning: a picture of step 5 could not be written" in capsys.readouterr().out


def test_torchrun_starts_several(project: Project, tmp_path: Path) -> None:
    run = tmp_path / "two"
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "scadm.training", str(run))
    project.run(sys.executable, *command, OMP_NUM_THREADS="1")
    assert is_complete(Store(str(run)) / "final")


def test_what_is_wrong_is_said_in_one_line(project: Project, tmp_path: Path) -> None:
    done = project.run(sys.executable, "-m", "scadm.training", "x", "--shards", str(tmp_path), check=False)
    assert done.returncode == 1
    assert re.search(r"^error: .*has no manifest.json.*dvc repro", done.stdout, re.MULTILINE), done.stdout
    help = subprocess.run(
        [sys.executable, "-m", "scadm.training", "--help"], env=project.env, cwd=project.folder, capture_output=True
    )
    assert b"torchrun --nproc-per-node 8" in help.stdout
