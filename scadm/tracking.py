"""MLflow: one run for each run key, with its metrics, pictures, weights and lineage.

The launcher makes the run (`open_run`); rank 0 reopens it by id (`RunLogger`). A failure of tracking never stops a
training: it is counted and said once.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from numpy.typing import NDArray

from scadm.checkpoint import digest_of, is_complete
from scadm.config import TrackingConfig, flatten
from scadm.manifest import require_same
from scadm.store import Store

RUN_KEY = "scadm.run_key"
EVALUATION = "scadm.evaluation"
"""Tag of a run that holds an evaluation's metrics: the run key of that evaluation."""

_PARAMS_PER_CALL = 100


@dataclass(frozen=True)
class Tracked:
    """Which MLflow run a worker reopens."""

    uri: str
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


def survey(config: TrackingConfig, home: Path, seconds: int) -> str:
    """What the store holds, in words; a store that exists is only read. Raises what MLflow raises if none answers.

    MLflow itself would try a silent server again for minutes: here it is asked once, and given some seconds.
    """
    waits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds)}
    before = {name: os.environ.get(name) for name in waits}
    os.environ.update(waits)
    try:
        client = MlflowClient(_address(config, home))
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            return f"no experiment {config.experiment} yet"
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return f"{'over ' if runs.token else ''}{len(runs)} runs in experiment {config.experiment}"


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

    `dataset` is (name, path or URI, digest of its manifest). Params and dataset are logged once, tags every time.
    """
    uri = tracking_uri(config, home)
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
        run = client.create_run(experiment_id, run_name=name, tags={RUN_KEY: run_key})
        rows = [Param(key, value) for key, value in flatten(params).items()]
        for i in range(0, len(rows), _PARAMS_PER_CALL):
            client.log_batch(run.info.run_id, params=rows[i : i + _PARAMS_PER_CALL])
        if dataset is not None:
            _log_dataset(client, run.info.run_id, *dataset)
    client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return Tracked(uri, run.info.run_id)


def _log_dataset(client: MlflowClient, run_id: str, data_name: str, source: str, digest: str) -> None:
    with warnings.catch_warnings():  # MLflow knows its own kind of folder under two names, and says so
        warnings.filterwarnings("ignore", message=".*interpreted in multiple ways.*")
        resolved = resolve_dataset_source(source)
    entity = MetaDataset(resolved, name=data_name, digest=digest[:36])._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def find_run(client: MlflowClient, experiment_id: str, run_key: str) -> Run | None:
    """The run tagged with a run key, if there is one."""
    found = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{run_key}'", max_results=1)
    return found[0] if found else None


@contextmanager
def ending(tracked: Tracked) -> Iterator[None]:
    """End the run as finished or failed, whichever the block does."""
    client = MlflowClient(tracked.uri)
    client.update_run(tracked.run_id, status="RUNNING")
    try:
        yield
    except BaseException:
        client.set_terminated(tracked.run_id, "FAILED")
        raise
    client.set_terminated(tracked.run_id, "FINISHED")


def keep_weights(tracked: Tracked, final: Store) -> None:
    """Keep the final weights as artifacts of the run too, so that a clone without this storage can have them."""
    names = final.files()
    kept = {Path(file.path).name for file in MlflowClient(tracked.uri).list_artifacts(tracked.run_id, "weights")}
    if kept == set(names):
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_bytes(final.read(name))
        RunLogger(tracked).artifacts(Path(folder), "weights")


@dataclass
class RunLogger:
    """Writes into an MLflow run, and goes on where that fails."""

    tracked: Tracked
    failures: int = 0
    _client: MlflowClient | None = field(default=None, repr=False)

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            self._client = MlflowClient(self.tracked.uri)
        return self._client

    def log(self, step: int, metrics: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._try(lambda: self.client.log_batch(self.tracked.run_id, metrics=rows))

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        self._try(lambda: self.client.log_image(self.tracked.run_id, image, key=name, step=step))

    def artifacts(self, folder: Path, name: str) -> None:
        self._try(lambda: self.client.log_artifacts(self.tracked.run_id, str(folder), name))

    def artifact(self, path: Path, folder: str) -> None:
        self._try(lambda: self.client.log_artifact(self.tracked.run_id, str(path), folder))

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever the store, the network or the server did: the training matters more
            self.failures += 1
            if self.failures == 1:
                print(f"warning: MLflow at {self.tracked.uri} failed: {error}. Going on without it.", flush=True)
            self._client = None


def fetch_artifacts(tracked: Tracked, name: str, folder: Path) -> Path:
    """Download a folder of artifacts; returns where it lies."""
    return Path(MlflowClient(tracked.uri).download_artifacts(tracked.run_id, name, str(folder)))


def find_weights(trained: Mapping[str, str], storage_root: str, tracked: Tracked, work: Path) -> str:
    """Where the weights of models/train.json are: at the storage root, or fetched from the run's artifacts.

    Raises ValueError where they are in neither place, or are not the ones that were trained.
    """
    place = f"{storage_root}/{trained['weights']}"
    if not is_complete(Store(place)):
        try:
            place = str(fetch_artifacts(tracked, "weights", work / f"weights-{trained['run_key']}"))
        except Exception as error:
            raise ValueError(
                f"the weights of run {trained['run_key']} are neither in {place} nor among the artifacts of the MLflow "
                f"run {trained['mlflow_run']} ({error}). Set storage.root or tracking.uri to where they are, or train "
                "again with `dvc repro --force train`."
            ) from None
    require_same(
        f"the digest of the weights in {place}",
        digest_of(Store(place)),
        trained["sha256"],
        "Run `dvc repro train`.",
    )
    return place


def evaluation_run(config: TrackingConfig, home: Path, trained: Tracked, key: str, params: dict[str, Any]) -> Tracked:
    """The run that holds the evaluation `key`: that of the training for its first one with the same parameters, for
    another a run below it.

    So no evaluation overwrites another one's metrics, and each lies beside the parameters that it was made with. Where
    the store fails, that is said, and the training's run stands in: what was measured is in the reports.
    """
    try:
        return _evaluation_run(config, home, trained, key, params)
    except Exception as error:  # as in RunLogger
        print(f"warning: MLflow at {trained.uri} failed: {error}. Going on without it.", flush=True)
        return trained


def _evaluation_run(config: TrackingConfig, home: Path, trained: Tracked, key: str, params: dict[str, Any]) -> Tracked:
    client = MlflowClient(trained.uri)
    run = client.get_run(trained.run_id)
    same = flatten(params).items() <= run.data.params.items()  # registered models add some of their own
    if run.data.tags.get(EVALUATION, key if same else None) == key:
        client.set_tag(trained.run_id, EVALUATION, key)
        return trained
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("scadm.") and name != RUN_KEY}
    below = open_run(
        config,
        home,
        key,
        name=f"{run.info.run_name}-evaluation-{key[:6]}",
        params=params,
        tags=tags | {EVALUATION: key, MLFLOW_PARENT_RUN_ID: trained.run_id},
        dataset=None,
    )
    client.set_terminated(below.run_id, "FINISHED")
    return below


def log_evaluation(tracked: Tracked, metrics: Mapping[str, Mapping[str, Mapping[str, float]]], reports: Path) -> None:
    """The evaluation's metrics, {task: {row: {metric: value}}}, and its files into an MLflow run."""
    logger = RunLogger(tracked)
    flat = {
        f"{task}/{row}/{name}": value
        for task, rows in metrics.items()
        for row, part in rows.items()
        for name, value in part.items()
    }
    logger.log(0, flat)
    logger.artifacts(reports / "figures", "figures")
    logger.artifact(reports / "index.html", "report")
