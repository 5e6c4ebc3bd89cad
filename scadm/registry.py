"""MLflow's registry of models: a version for each evaluated model, with all that it needs to run, and two aliases."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema

from scadm.config import Params

_METRICS, _TEST_SPLIT, _EVALUATION = "scadm.metrics", "scadm.test_split", "scadm.evaluation"

_SERVED_BY = [
    *("torch", "diffusers", "einops", "safetensors", "numpy", "pandas", "pyarrow", "pillow"),
    *("mlflow", "pydantic", "pyyaml", "tqdm"),
]

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


@contextmanager
def _connected(uri: str) -> Iterator[None]:
    """MLflow's functions that take no address use this one meanwhile.

    They would else keep it for the rest of the process, and hand it down to all that it starts.
    """
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        # None and not what they said before, which may be MLflow's own guess: then the environment counts again.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def fetch_weights(uri: str, model_uri: str, folder: Path) -> Path:
    """Download the weights' checkpoint of a registered version (models:/NAME/VERSION or @ALIAS); where it lies."""
    client = MlflowClient(uri, registry_uri=uri)
    name, _, alias = model_uri.removeprefix("models:/").partition("@")
    if alias:
        name = f"{name}/{client.get_model_version_by_alias(name, alias).version}"
    with _connected(uri):
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}", dst_path=str(folder)))
        return local / Model.load(str(local)).flavors["python_function"]["artifacts"]["weights"]["path"]


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
        for found in self.client.search_model_versions(f"name = '{self.name}'"):  # none of a name that is new
            if found.tags.get(_EVALUATION) == evaluation:
                return self._version(found)
        tags = {_METRICS: json.dumps(metrics), _TEST_SPLIT: test_split, _EVALUATION: evaluation}
        with _connected(self.uri):
            with mlflow.start_run(run_id=run_id, log_system_metrics=False), warnings.catch_warnings():
                # An input example would be run through the model here; the signature below says it all.
                warnings.filterwarnings("ignore", message=".*input example was not provided.*")
                logged = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(Path(__file__).with_name("serving.py")),
                    artifacts={"weights": weights, "autoencoder": autoencoder},
                    code_paths=code,
                    # MLflow shows these among the run's parameters: by the names that they have there already.
                    model_config={f"sampling.{name}": value for name, value in sampling.items()},
                    signature=_SIGNATURE,
                    pip_requirements=_requirements(),
                )
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


def describe(params: Params, metrics: Metrics, evaluation: Mapping[str, object]) -> str:
    """The description of a registered version, in Markdown."""
    table = [
        f"| {row} | {m['ssim']:.3f} | {m['miou']:.3f} | {m['accuracy']:.3f} |"
        for row, m in metrics["reconstruction"].items()
    ]
    data = {
        "synthetic": "faces drawn by this project; free of any person's likeness.",
        "celebamask-hq": "CelebAMask-HQ: for non-commercial research only, and so is this model.",
        "folder": "the user's own faces: the terms under which they were collected hold for this model too.",
    }
    training = params.training
    made = f"SCA-DM at {params.project.resolution} pixels, "
    if training.init_from is None:
        origin = [f"{made}trained for {training.steps} steps."]
    else:
        done = f"trained for {training.steps} steps from the weights" if training.steps else "the weights"
        origin = [f"{made}{done} of {training.init_from}, whose terms hold for this model too."]
    return "\n".join(
        [
            *origin,
            f"Data: {data[params.data.source]}",
            f"Measured on {evaluation['faces']} test faces (reconstruction, parser {evaluation['parser']}):",
            "",
            "| row | SSIM | mIoU | accuracy |",
            "| --- | --- | --- | --- |",
            *table,
        ]
    )
