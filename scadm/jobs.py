"""What a process knows of the Ray job that it is, or that it was started by. Nothing here needs Ray itself."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from scadm.config import ClusterConfig

LAUNCHED = ("masks", "latents", "train", "evaluate")
"""Stages that can run as Ray jobs: those that use Ray."""

HOME, DATA = "SCADM_HOME", "SCADM_DATA"
"""Absolute paths of the home, and of the folder with the stages' outs, where all nodes of a cluster see them."""
COMMIT, DIRTY = "SCADM_GIT_COMMIT", "SCADM_GIT_DIRTY"
"""The commit that an upload comes from, and whether its tree differs from it."""

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray gives it to the process of a job."""


def in_job() -> bool:
    """Whether this process is a Ray job, or was started by one."""
    return _JOB in os.environ


def submission() -> str | None:
    """The submission id of the Ray job that this process is."""
    return json.loads(os.environ.get(_JOB, "{}")).get("metadata", {}).get("job_submission_id")


def is_upload(workspace: Path) -> bool:
    """Whether a folder is what was uploaded of a project: code and parameters without what DVC keeps."""
    return not (workspace / ".dvc").is_dir()


def launch_address(cluster: ClusterConfig) -> str | None:
    """Where this process hands its stage to as a Ray job; None if the stage runs here."""
    address = cluster.address or os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith(("http://", "https://")) and not in_job() else None


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(address).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")
