"""MLflow: one run for each run key, with its metrics, pictures and lineage; and the registry of models.

The launcher makes the run (`open_run`); rank 0 reopens it by id (`RunLogger`). A failure of tracking never stops a
training: it is counted and said once.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from numpy.typing import NDArray

from scadm.checkpoint import Store
from scadm.config import TrackingConfig

RUN_KEY = "scadm.run_key"
_PARAMS_PER_CALL = 100


@dataclass(frozen=True)
class Tracked:
    """Which MLflow run a worker reopens."""

    uri: str
    run_id: str


def tracking_uri(config: TrackingConfig, home: Path) -> str:
    """The store's address; `sqlite` is a file of this project, the same for all of its experiments."""
    if config.uri != "sqlite":
        return config.uri
    (home / "storage").mkdir(exist_ok=True)
    return f"sqlite:///{home / 'storage' / 'mlflow.db'}"


def is_local(config: TrackingConfig) -> bool:
    """Whether the store is a file, which other nodes cannot reach."""
    return not config.uri.startswith(("http:", "https:", "databricks"))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as `section.key` -> text."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat


def open_run(
    config: TrackingConfig,
    home: Path,
    run_key: str,
    *,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    dataset: tuple[str, str, str],
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
        data_name, source, digest = dataset
        with warnings.catch_warnings():  # MLflow knows its own kind of folder under two names, and says so
            warnings.filterwarnings("ignore", message=".*interpreted in multiple ways.*")
            resolved = resolve_dataset_source(source)
        entity = MetaDataset(resolved, name=data_name, digest=digest[:36])._to_mlflow_entity()
        client.log_inputs(run.info.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])
    client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return Tracked(uri, run.info.run_id)


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


# --- the registry -------------------------------------------------------------------------------------

_METRICS, _TEST_SPLIT, _EVALUATION = "scadm.metrics", "scadm.test_split", "scadm.evaluation"


_SERVED_BY = [
    *("torch", "diffusers", "einops", "safetensors", "numpy", "pandas", "pyarrow", "pillow"),
    *("mlflow", "pydantic", "pyyaml", "tqdm"),
]

Metrics = dict[str, dict[str, dict[str, float]]]
"""{task: {row: {metric: value}}}."""


def _requirements() -> list[str]:
    """What a registered model needs, at the versions that made it; torch without the suffix of its build."""
    return [f"{name}=={version(name).split('+')[0]}" for name in _SERVED_BY]


@dataclass(frozen=True)
class Version:
    name: str
    number: str
    metrics: Metrics
    """As in reports/metrics.json."""
    test_split: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


class Registry:
    """Versions of one registered model and its two aliases, `candidate` and `champion`."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.client = MlflowClient(uri, registry_uri=uri)

    def by_alias(self, alias: str) -> Version | None:
        try:
            found = self.client.get_model_version_by_alias(self.name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return self._version(found)

    def point(self, alias: str, version: Version) -> None:
        self.client.set_registered_model_alias(self.name, alias, version.number)

    def register(
        self,
        run_id: str,
        *,
        weights: str,
        autoencoder: str,
        code: list[str],
        sampling: dict[str, Any],
        metrics: Metrics,
        test_split: str,
        evaluation: str,
        description: str,
    ) -> Version:
        """A version with weights, autoencoder and the code that runs them; an evaluation is registered once."""
        if any(model.name == self.name for model in self.client.search_registered_models()):
            for found in self.client.search_model_versions(f"name = '{self.name}'"):
                if found.tags.get(_EVALUATION) == evaluation:
                    return self._version(found)
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        with mlflow.start_run(run_id=run_id, log_system_metrics=False), warnings.catch_warnings():
            # An input example would be run through the model here; the signature below says it all.
            warnings.filterwarnings("ignore", message=".*input example was not provided.*")
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("serving.py")),
                artifacts={"weights": weights, "autoencoder": autoencoder},
                code_paths=code,
                model_config={"sampling": sampling},
                signature=_SIGNATURE,
                pip_requirements=_requirements(),
            )
        tags = {_METRICS: json.dumps(metrics), _TEST_SPLIT: test_split, _EVALUATION: evaluation}
        registered = mlflow.register_model(logged.model_uri, self.name, tags=tags)
        self.client.update_model_version(self.name, registered.version, description)
        return self._version(self.client.get_model_version(self.name, registered.version))

    def _version(self, found: ModelVersion) -> Version:
        return Version(
            name=found.name,
            number=str(found.version),
            metrics=json.loads(found.tags.get(_METRICS, "{}")),
            test_split=found.tags.get(_TEST_SPLIT, ""),
        )


_SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "mask"),
            ColSpec(DataType.string, "reference", required=False),
            ColSpec(DataType.string, "reference_mask", required=False),
            ColSpec(DataType.long, "seed", required=False),
        ]
    ),
    outputs=Schema([ColSpec(DataType.string, "image")]),
)
