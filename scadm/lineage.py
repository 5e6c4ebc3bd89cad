"""Where a run comes from: what leads from an MLflow run or a report back to code, data and parameters."""

import os
import subprocess
from pathlib import Path

from scadm import jobs
from scadm.manifest import sha256


def _git(workspace: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(workspace), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def tags(workspace: Path, data_digest: str) -> dict[str, str]:
    """git commit (and whether the tree differs from it), dvc.lock, data manifest, Ray submission: what there is."""
    found = {"scadm.data_manifest": data_digest}
    if commit := _git(workspace, "rev-parse", "HEAD"):
        found["scadm.git_commit"] = commit
        found["scadm.git_dirty"] = str(bool(_git(workspace, "status", "--porcelain"))).lower()
    elif commit := os.environ.get(jobs.COMMIT):  # an upload has no repository
        found["scadm.git_commit"] = commit
        found["scadm.git_dirty"] = os.environ.get(jobs.DIRTY, "")
    if (lock := workspace / "dvc.lock").is_file():
        found["scadm.dvc_lock"] = sha256(lock)
    if submission := jobs.submission():
        found["scadm.ray_submission"] = submission
    if experiment := os.environ.get("DVC_EXP_NAME"):
        found["scadm.dvc_experiment"] = experiment
    return found


def keep_out_of_git(workspace: Path, name: str) -> None:
    """Have git not mention a file of the workspace. By the repository's own list: what .gitignore names, Ray would
    not upload."""
    said = _git(workspace, "rev-parse", "--git-path", "info/exclude")
    if said is not None and _git(workspace, "check-ignore", name) is None:
        exclude = workspace / said
        exclude.parent.mkdir(parents=True, exist_ok=True)
        with exclude.open("a") as file:
            file.write(f"/{name}\n")
