"""MLflow's registry of models: a version for each evaluated model, with all that it needs to run and to be judged."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
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

from scadm.evaluation.evaluated import Evaluated
from scadm.files.manifest import DISK_FULL
from scadm.redaction import brief, redacted
from scadm.tracking.store import impatient

CANDIDATE, CHAMPION = "candidate", "champion"
PROMOTED, ROLLED_BACK = "scadm.promoted", "scadm.rolled_back"
"""Tags of a version that became champion, and of one that was put back: when, in milliseconds since 1970."""
FORCED = "scadm.forced"
"""Tag of a version that became champion though the gate said no: its reasons."""
_TEST_SPLIT, _EVALUATION = "scadm.test_split", "scadm.evaluation"
_LONGEST = 5000
"""Characters that the database of a registry keeps of a tag and of a description."""
_UPLOAD = (600, 3)
"""Seconds that a file may take and how often it is tried again: weights are gigabytes, and a network has hiccups."""

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


def _requirements() -> list[str]:
    """What a registered model needs, at the versions that made it; torch without the suffix of its build."""
    return [f"{name}=={version(name).split('+')[0]}" for name in _SERVED_BY]


@dataclass(frozen=True)
class Version:
    name: str
    number: str
    test_split: str
    promoted: int | None = field(default=None, compare=False)
    """When it became champion, in milliseconds; None if it never was by this program."""
    rolled_back: int | None = field(default=None, compare=False)
    """When it was champion no longer because the one before was wanted again."""
    store: str = field(default="", repr=False, compare=False)
    """The registry's address, which may hold a password."""

    @property
    def label(self) -> str:
        """As `scadm promote` takes it."""
        return f"{self.name}/{self.number}"

    @property
    def uri(self) -> str:
        return f"models:/{self.label}"

    @cached_property
    def evaluated(self) -> Evaluated:
        """Its evaluation: a few small files of the version, fetched when first asked for.

        Raises ValueError where it has none, or none that can be read.
        """
        try:
            with tempfile.TemporaryDirectory() as folder, _connected(self.store), impatient():
                place = f"{self.uri}/artifacts/evaluation"
                return Evaluated.read(Path(mlflow.artifacts.download_artifacts(place, dst_path=folder)))
        except Exception as error:  # MLflow, the store of artifacts and the network have words of their own
            raise ValueError(
                f"the evaluation of {self.uri} cannot be read ({brief(error)}), expected the files that it was "
                "registered with: without them it can neither be judged nor be compared with. If the store is away, "
                "start it and run the same command again. If the files are gone, or the version was registered without "
                f"an evaluation, `dvc exp run -S training.init_from={self.uri} -S training.steps=0` evaluates its "
                "weights and registers them anew; `scadm promote VERSION --force` makes a version champion unjudged."
            ) from error


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
    """Versions of one registered model and its two aliases, `candidate` and `champion`.

    Every method raises one ValueError, with the remedy, where the store does not answer.
    """

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.client = MlflowClient(uri, registry_uri=uri)

    def by_alias(self, alias: str) -> Version | None:
        with self._asking():
            return self._found(lambda: self.client.get_model_version_by_alias(self.name, alias))

    def by_number(self, number: str) -> Version | None:
        with self._asking():
            return self._found(lambda: self.client.get_model_version(self.name, number))

    def versions(self) -> list[Version]:
        """All of them; none of a name that is new."""
        with self._asking():
            return [self._version(found) for found in self._every()]

    def find(self, key: str) -> Version | None:
        """The version that an evaluation, known by its key, was registered as."""
        with self._asking():
            return next((self._version(found) for found in self._every() if found.tags.get(_EVALUATION) == key), None)

    def point(self, alias: str, version: Version) -> None:
        with self._asking():
            self.client.set_registered_model_alias(self.name, alias, version.number)

    def tag(self, version: Version, name: str, value: str) -> None:
        with self._asking():
            self.client.set_model_version_tag(self.name, version.number, name, value[:_LONGEST])

    def register(
        self,
        run_id: str,
        *,
        artifacts: Mapping[str, str],
        code: list[str],
        sampling: Mapping[str, Any],
        key: str,
        test_split: str,
        description: str,
    ) -> Version:
        """A version with what it runs on, its code and its evaluation; again with the same key, the same version.

        `artifacts` are the folders `weights` and `autoencoder` and, of an evaluated model, `evaluation`.
        """
        if (known := self.find(key)) is None:
            tags = {_TEST_SPLIT: test_split, _EVALUATION: key}
            with self._asking(*_UPLOAD), _connected(self.uri):
                logged = _log(run_id, artifacts, code, sampling)
            with self._asking(), _connected(self.uri):
                number = mlflow.register_model(logged, self.name, tags=tags).version
                known = self._version(self.client.get_model_version(self.name, number))
        with self._asking():
            # Last and on its own, so it may be what a server that went away has not heard.
            if not self.client.get_model_version(self.name, known.number).description:
                self.client.update_model_version(self.name, known.number, _fitting(description))
        return known

    @contextmanager
    def _asking(self, *patience: int) -> Iterator[None]:
        try:
            with impatient(*patience):
                yield
        except Exception as error:  # the network's, the server's, the database's or the artifact store's
            if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in DISK_FULL):
                raise
            raise ValueError(
                f"the model registry {redacted(self.uri)} failed, expected one that answers: {brief(error)}. Nothing "
                "is half done: an evaluation is registered once, and the alias champion moves last and at once. Where "
                "it is away, start it (`scadm doctor` looks at it) and run the same command again: it finishes."
            ) from error

    def _every(self) -> list[ModelVersion]:
        return list(self.client.search_model_versions(f"name = '{self.name}'", max_results=10_000))

    def _found(self, ask: Any) -> Version | None:
        try:
            return self._version(ask())
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _version(self, found: ModelVersion) -> Version:
        times = [int(found.tags[tag]) if tag in found.tags else None for tag in (PROMOTED, ROLLED_BACK)]
        return Version(found.name, str(found.version), found.tags.get(_TEST_SPLIT, ""), *times, store=self.uri)


def _log(run_id: str, artifacts: Mapping[str, str], code: list[str], sampling: Mapping[str, Any]) -> str:
    """The model among the run's; its URI."""
    with mlflow.start_run(run_id=run_id, log_system_metrics=False), warnings.catch_warnings():
        # An input example would be run through the model here; the signature says it all.
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts=dict(artifacts),
            code_paths=code,
            # MLflow shows these among the run's parameters: by the names that they have there already.
            model_config={f"sampling.{name}": value for name, value in sampling.items()},
            signature=_SIGNATURE,
            pip_requirements=_requirements(),
        ).model_uri


def _fitting(description: str) -> str:
    rest = "\n\n*The rest is in artifacts/evaluation/card.md.*"
    return description if len(description) <= _LONGEST else description[: _LONGEST - len(rest)] + rest
