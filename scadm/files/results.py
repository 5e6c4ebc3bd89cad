"""What a stage that ran as a Ray job has made: `<root>/results/<stage>-<run key>/result.json`, written last.

A job's status says that its process ended well. That the outs are there, and whose they are, is said here.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from scadm.files.store import Store

NAME = "result.json"


@dataclass(frozen=True)
class Result:
    run_key: str
    submission: str
    """Of the Ray job that made it."""
    outs: dict[str, str]
    """Digest of each out."""


def place(root: str, stage: str, run_key: str) -> Store:
    return Store(f"{root}/results/{stage}-{run_key}")


def write(root: str, stage: str, result: Result) -> None:
    place(root, stage, result.run_key).write(NAME, json.dumps(asdict(result), indent=1, sort_keys=True).encode())


def read(root: str, stage: str, run_key: str) -> Result | None:
    """None where there is none, or one that cannot be read."""
    found = place(root, stage, run_key)
    if found.size(NAME) is None:
        return None
    try:
        tree: dict[str, Any] = json.loads(found.read(NAME))
        return Result(**tree)
    except (json.JSONDecodeError, TypeError):
        return None


def require(root: str, stage: str, run_key: str, submission: str) -> Result:
    """The result that the job `submission` must have left. Raises ValueError where it is missing or another one's."""
    result, where = read(root, stage, run_key), f"{place(root, stage, run_key).root}/{NAME}"
    if result is None:
        raise ValueError(
            f"Ray says that the job {submission} has succeeded, but its result {where} is not there (or cannot be read "
            "from here): nothing was taken over. Its code, parameters or inputs were others than here, or it wrote "
            f"to another storage root. `ray job logs {submission}` shows what it did; the same command tries again."
        )
    if (result.run_key, result.submission) != (run_key, submission):
        raise ValueError(
            f"{where} is of run key {result.run_key} and job {result.submission}, expected {run_key} and {submission}: "
            "another job has written there. Run the same command again."
        )
    return result
