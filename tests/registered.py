"""A registry with small versions in it, whose evaluations are made up."""

import uuid
from pathlib import Path
from typing import Any

from evaluations import write
from mlflow.tracking import MlflowClient

from scadm.evaluation.evaluated import evaluation_key
from scadm.registry import Registry, Version


class Shelf:
    """One registry of one model, at an address or in a file of the folder."""

    def __init__(self, folder: Path, name: str = "faces", uri: str | None = None) -> None:
        self.folder, self.name = folder, name
        self.uri = uri or f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(self.uri, registry_uri=self.uri)
        for part in ("weights", "autoencoder", "code"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / "file.txt").write_text(part)

    @property
    def registry(self) -> Registry:
        return Registry(self.uri, self.name)

    def run(self) -> str:
        found = self.client.get_experiment_by_name("sca-dm")
        if found is None:
            local = str(self.folder / "artifacts") if self.uri.startswith("sqlite") else None
            experiment = self.client.create_experiment("sca-dm", artifact_location=local)
        else:
            experiment = found.experiment_id
        return self.client.create_run(experiment).info.run_id

    def arguments(self, evaluation: Path | None, **changes: Any) -> dict[str, Any]:
        """What `register` is given."""
        artifacts = {part: str(self.folder / part) for part in ("weights", "autoencoder")}
        given: dict[str, Any] = {
            "artifacts": artifacts if evaluation is None else artifacts | {"evaluation": str(evaluation)},
            "code": [str(self.folder / "code")],
            "sampling": {"steps": 4, "eta": 0.0},
            "key": "none" if evaluation is None else evaluation_key(evaluation),
            "test_split": "same",
            "description": "a model",
        }
        return given | changes

    def registered(self, ssim: float, **changes: Any) -> Version:
        """A version with this reconstruction, registered in earnest; `changes` are those of the evaluation."""
        folder = write(self.folder / f"{ssim}" / "evaluation", ssim, **changes)
        (folder / "card.md").write_text("# a model")
        return self.registry.register(self.run(), **self.arguments(folder))

    def version(self, ssim: float, *, split: str = "same", **changes: Any) -> Version:
        """As `registered`, but with the evaluation alone, and so at once."""
        place = self.folder / self.name / uuid.uuid4().hex
        write(place / "artifacts" / "evaluation", ssim, split=split, **changes)
        if not self.registry.versions():
            self.client.create_registered_model(self.name)
        made = self.client.create_model_version(self.name, str(place), tags={"scadm.test_split": split})
        found = self.registry.by_number(str(made.version))
        assert found is not None
        return found
