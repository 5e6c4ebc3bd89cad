"""Where the MLflow store is, and how long it is waited for."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.tracking import MlflowClient

from scadm.config import TrackingConfig
from scadm.redaction import brief, redacted

PATIENCE = 10
"""Seconds in which a call must be answered, where somebody waits for it."""


@dataclass(frozen=True)
class Tracked:
    """Which MLflow run a worker reopens."""

    uri: str = field(repr=False)
    """It may hold a password, and Ray shows what its workers are given."""
    run_id: str


def _address(config: TrackingConfig, home: Path) -> str:
    return f"sqlite:///{home / 'storage' / 'mlflow.db'}" if config.uri == "sqlite" else config.uri


def tracking_uri(config: TrackingConfig, home: Path) -> str:
    """The store's address; `sqlite` is a file of this project, the same for all of its experiments."""
    if config.uri == "sqlite":
        (home / "storage").mkdir(exist_ok=True)
    return _address(config, home)


def store_file(config: TrackingConfig, home: Path) -> Path | None:
    """The file of an SQLite store, which need not exist yet; None for a store of another kind."""
    kind, _, path = _address(config, home).partition(":///")
    return Path(path) if kind == "sqlite" else None


_LOCK = threading.Lock()
_CALLS = threading.RLock()
_inside = 0
_before: dict[str, str | None] = {}


@contextmanager
def impatient(seconds: int = PATIENCE, retries: int = 0) -> Iterator[None]:
    """MLflow's requests meanwhile are given some seconds and `retries` more tries, in all threads of this process.

    MLflow itself would try a silent server again for minutes. Its only way to be told otherwise is the environment of
    the process, which is changed by the first block that is entered and as before when the last one is left.
    """
    global _inside
    waits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it may hold a password
    }
    with _LOCK:
        if _inside == 0:
            _before.update({name: os.environ.get(name) for name in waits})
            os.environ.update(waits)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                for name, value in _before.items():
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value


@contextmanager
def asking(seconds: int = PATIENCE) -> Iterator[None]:
    """As `impatient`, and one thread of this process at a time."""
    with _CALLS, impatient(seconds):
        yield


def survey(config: TrackingConfig, home: Path, seconds: int) -> str:
    """What the store holds, in words; a store that exists is only read. Raises what MLflow raises if none answers."""
    with asking(seconds):
        client = MlflowClient(_address(config, home))
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            return f"no experiment {config.experiment} yet"
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return f"{'over ' if runs.token else ''}{len(runs)} runs in experiment {config.experiment}"


def warn(tracked: Tracked, error: Exception, consequence: str) -> None:
    """Say that a call failed, and what that means."""
    print(f"warning: MLflow at {redacted(tracked.uri)} failed: {brief(error)}. {consequence}", flush=True)
