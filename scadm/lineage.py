"""Where a run comes from: what leads from an MLflow run or a report back to code, data and parameters."""

import os
import subprocess
from pathlib import Path

from scadm import jobs
from scadm.files.manifest import sha256

EXPERIMENT = "scadm.dvc_experiment"
"""Name of the experiment of DVC, such as warm-otter."""
BASELINE = "scadm.dvc_baseline"
"""The commit that an experiment started from: all experiments of a queue have the same one."""

_CHANGED_BY_RUNNING = ("dvc.lock", "**/shared.json")


def _git(workspace: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(workspace), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def experiment() -> dict[str, str]:
    """The experiment of DVC that this process runs in, and its baseline, if it does."""
    names = {EXPERIMENT: "DVC_EXP_NAME", BASELINE: "DVC_EXP_BASELINE_REV"}
    return {tag: value for tag, name in names.items() if (value := os.environ.get(name))}


def tags(workspace: Path, data_digest: str) -> dict[str, str]:
    """git commit (and whether the tree differs from it), dvc.lock, data manifest, Ray submission: what there is."""
    found = {"scadm.data_manifest": data_digest}
    if commit := _git(workspace, "rev-parse", "HEAD"):
        found["scadm.git_commit"] = commit
        changed = _git(
            workspace, "status", "--porcelain", "--", ".", *(f":(exclude,glob){x}" for x in _CHANGED_BY_RUNNING)
        )
        found["scadm.git_dirty"] = str(bool(changed)).lower()
    elif commit := os.environ.get(jobs.COMMIT):  # an upload has no repository
        found["scadm.git_commit"] = commit
        found["scadm.git_dirty"] = os.environ.get(jobs.DIRTY, "")
    if (lock := workspace / "dvc.lock").is_file():
        found["scadm.dvc_lock"] = sha256(lock)
    if submission := jobs.submission():
        found["scadm.ray_submission"] = submission
    return found | experiment()


def origin(workspace: Path, data_digest: str, autoencoder: str | None) -> dict[str, str]:
    """What a model comes from, for its card: data, autoencoder, and the commit of the code where there is one."""
    known = tags(workspace, data_digest)
    names = ("scadm.data_manifest", "scadm.git_commit", "scadm.git_dirty")
    found = {name.removeprefix("scadm."): known[name] for name in names if name in known}
    return found | ({"autoencoder": autoencoder} if autoencoder else {})


def keep_out_of_git(workspace: Path, name: str) -> None:
    """Have git not mention a file of the workspace. By the repository's own list: what .gitignore names, Ray would
    not upload."""
    said = _git(workspace, "rev-parse", "--git-path", "info/exclude")
    if said is not None and _git(workspace, "check-ignore", name) is None:
        exclude = workspace / said
        exclude.parent.mkdir(parents=True, exist_ok=True)
        with exclude.open("a") as file:
            file.write(f"/{name}\n")
