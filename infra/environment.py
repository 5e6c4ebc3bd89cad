"""What a trial's programs find in their environment."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_FOREIGN = ("RAY_", "MLFLOW_", "AWS_", "SCADM_", "DVC_", "GIT_", "PYTHON", "XDG_")
_SOMEBODY = {"NAME": "two-nodes", "EMAIL": "two-nodes@localhost"}
_S3_KEY = "testing"


def clean(home: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """The inherited environment without what leads to another cluster, store, project or proxy, and quiet.

    Everything that a program writes by itself goes into `home`.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "RAY_TMPDIR": str(home),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        **{f"GIT_{role}_{what}": who for role in ("AUTHOR", "COMMITTER") for what, who in _SOMEBODY.items()},
    }


def s3(endpoint: str) -> dict[str, str]:
    """What an S3 client needs to reach the store: the addresses in the project then stay plain `s3://bucket/...`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": _S3_KEY,
        "AWS_SECRET_ACCESS_KEY": _S3_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def token(file: Path) -> dict[str, str]:
    """Ray's authentication by the token in a file."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}
