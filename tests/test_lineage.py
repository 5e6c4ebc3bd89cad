"""What leads from an MLflow run back to code, data and parameters."""

import subprocess
from pathlib import Path

import pytest

from scadm import lineage
from scadm.files.manifest import sha256


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "SCADM_GIT_COMMIT",
        "SCADM_GIT_DIRTY",
        "DVC_EXP_NAME",
        "DVC_EXP_BASELINE_REV",
        "GIT_DIR",
        "GIT_WORK_TREE",
    ):
        monkeypatch.delenv(name, raising=False)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_without_git_there_is_the_data(tmp_path: Path) -> None:
    assert lineage.tags(tmp_path, "d1") == {"scadm.data_manifest": "d1"}


def test_the_commit_and_whether_the_tree_differs(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    assert lineage.tags(tmp_path, "d1") == {
        "scadm.data_manifest": "d1",
        "scadm.git_commit": git(tmp_path, "rev-parse", "HEAD"),
        "scadm.git_dirty": "false",
        "scadm.dvc_lock": sha256(tmp_path / "dvc.lock"),
    }
    (tmp_path / "dvc.lock").write_text("stages: {train: {}}\n")  # both are changed by running
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shared.json").write_text("{}")
    assert lineage.tags(tmp_path, "d1")["scadm.git_dirty"] == "false"
    (tmp_path / "new.txt").write_text("new")
    assert lineage.tags(tmp_path, "d1")["scadm.git_dirty"] == "true"


def test_submission_and_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    monkeypatch.setenv("DVC_EXP_NAME", "warm-otter")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123abc")
    found = lineage.tags(tmp_path, "d1")
    assert found["scadm.dvc_baseline"] == "0123abc"
    assert found["scadm.ray_submission"] == "raysubmit_1"
    assert found["scadm.dvc_experiment"] == "warm-otter"


def test_an_upload_has_the_commit_that_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCADM_GIT_COMMIT", "abc")
    monkeypatch.setenv("SCADM_GIT_DIRTY", "true")
    assert lineage.tags(tmp_path, "d1") == {
        "scadm.data_manifest": "d1",
        "scadm.git_commit": "abc",
        "scadm.git_dirty": "true",
    }
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "first", "--allow-empty")
    assert lineage.tags(tmp_path, "d1")["scadm.git_commit"] == git(tmp_path, "rev-parse", "HEAD"), "its own counts"
