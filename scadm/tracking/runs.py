"""One MLflow run for each run key: made or found, with its parameters, tags, data set and status."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from scadm.config import TrackingConfig, flatten
from scadm.lineage import EXPERIMENT
from scadm.redaction import brief, redacted
from scadm.tracking.store import Tracked, asking, tracking_uri, warn

RUN_KEY = "scadm.run_key"

_PARAMS_PER_CALL = 100
_LONGEST_PARAM = 6000
"""Characters; MLflow refuses more."""


def shown_params(tree: dict[str, Any]) -> dict[str, str]:
    """Parameters as MLflow shows them: `section.key` -> text, without secrets."""
    return {key: redacted(value)[:_LONGEST_PARAM] for key, value in flatten(tree).items()}


def open_run(
    config: TrackingConfig,
    home: Path,
    run_key: str,
    *,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    dataset: tuple[str, str, str] | None,
) -> Tracked:
    """The one MLflow run of a run key: found where it exists, made otherwise.

    `dataset` is (name, path or URI, digest of its manifest). Params and dataset are logged once, tags every time. The
    name of an experiment of DVC, among the tags, becomes part of the run's name. Raises ValueError where the store does
    not answer.
    """
    uri = tracking_uri(config, home)
    try:
        with asking():
            return _open_run(config, home, uri, run_key, name, params, tags, dataset)
    except Exception as error:  # the network's, the server's or the database's
        raise ValueError(
            f"tracking.uri is {redacted(config.uri)}, expected an MLflow store that answers: {brief(error)}. Nothing "
            "was started. Start the server (`mlflow server --host 127.0.0.1 --port 5000`), or correct tracking.uri in "
            "params.yaml (`sqlite` needs no server); `scadm doctor` looks at it again."
        ) from error


def _open_run(
    config: TrackingConfig,
    home: Path,
    uri: str,
    run_key: str,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    dataset: tuple[str, str, str] | None,
) -> Tracked:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        # A file store needs an absolute place for artifacts: its default is relative to whoever writes first.
        local = str(home / "storage" / "mlartifacts") if uri.startswith("sqlite:") else None
        experiment_id = client.create_experiment(config.experiment, artifact_location=local)
    else:
        experiment_id = experiment.experiment_id
    run = find_run(client, experiment_id, run_key)
    if run is None:
        if (queued := tags.get(EXPERIMENT)) is not None and queued not in name:
            name = f"{name}-{queued}"
        run = client.create_run(experiment_id, run_name=name, tags={RUN_KEY: run_key})
    # What is there stays. A launcher that was killed, or lost its server, in here may have left some out.
    rows = [Param(key, value) for key, value in shown_params(params).items() if key not in run.data.params]
    for i in range(0, len(rows), _PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=rows[i : i + _PARAMS_PER_CALL])
    if dataset is not None and not (run.inputs and run.inputs.dataset_inputs):
        _log_dataset(client, run.info.run_id, *dataset)
    client.log_batch(run.info.run_id, tags=[RunTag(key, redacted(value)) for key, value in tags.items()])
    return Tracked(uri, run.info.run_id)


def _log_dataset(client: MlflowClient, run_id: str, data_name: str, source: str, digest: str) -> None:
    with warnings.catch_warnings():  # MLflow knows its own kind of folder under two names, and says so
        warnings.filterwarnings("ignore", message=".*interpreted in multiple ways.*")
        resolved = resolve_dataset_source(redacted(source))
    entity = MetaDataset(resolved, name=data_name, digest=digest[:36])._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def find_run(client: MlflowClient, experiment_id: str, run_key: str) -> Run | None:
    """The run tagged with a run key, if there is one; the oldest of several."""
    found = client.search_runs(
        [experiment_id], f"tags.`{RUN_KEY}` = '{run_key}'", max_results=1, order_by=["attributes.start_time ASC"]
    )
    return found[0] if found else None


@contextmanager
def ending(tracked: Tracked) -> Iterator[None]:
    """The run is RUNNING in the block; after it FINISHED, FAILED, or KILLED where the user or a signal stopped it.

    A store that is away costs a warning, never what the block has done.
    """
    _set_status(tracked, "RUNNING")
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in _SIGNALS)
        _set_status(tracked, "KILLED" if stopped else "FAILED")
        raise
    _set_status(tracked, "FINISHED")


_SIGNALS = (129, 130, 143)
"""Exit statuses after a hangup, Ctrl-C and SIGTERM."""


def _set_status(tracked: Tracked, status: str) -> None:
    try:
        with asking():
            client = MlflowClient(tracked.uri)
            if status == "RUNNING":
                client.update_run(tracked.run_id, status=status)
            else:
                client.set_terminated(tracked.run_id, status)
    except Exception as error:  # whatever the store, the network or the server did: the training matters more
        warn(tracked, error, f"The run's status there is not yet {status}. {SENT_LATER}")


SENT_LATER = (
    "Nothing is lost: when it answers, the same command sends the rest (a finished training ends at once: "
    "`dvc repro --force --single-item train`)."
)
