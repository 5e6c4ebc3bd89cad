"""A project whose stages but the last have run, as far as registering can see: its model and evaluation are made up."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from evaluations import write
from mlflow.tracking import MlflowClient

from scadm import profiles
from scadm.files.checkpoint import digest_of, write_checkpoint
from scadm.files.manifest import Manifest
from scadm.files.store import Store

ROOT = Path(__file__).resolve().parents[1]
NAME = "sca-dm-synthetic-64"


class EvaluatedProject:
    """The folder must be empty; `uri` is tracking.uri. It is of the default configuration, gate included.

    With `code` it has the code too, and its stage can be run as a program.
    """

    def __init__(self, folder: Path, uri: str = "sqlite", *, code: bool = False) -> None:
        self.folder, self.named = folder, uri
        self.uri = f"sqlite:///{folder}/storage/mlflow.db" if uri == "sqlite" else uri
        tree = yaml.safe_load(profiles.render("quickstart", ROOT / "conf"))
        tree["tracking"]["uri"] = uri
        for name in (".dvc", "storage", "models"):
            (folder / name).mkdir(parents=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(tree))
        shutil.copy(ROOT / "dvc.yaml", folder)
        if code:
            for name in ("scadm", "pipeline"):
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:  # a registered model takes it along: here next to nothing
            (folder / "scadm").mkdir()
            (folder / "scadm" / "__init__.py").touch()
        shutil.copytree(ROOT / "conf" / "no_images", folder / "conf" / "no_images")
        self.client = MlflowClient(self.uri, registry_uri=self.uri)
        local = str(folder / "storage" / "artifacts") if uri == "sqlite" else None
        known = self.client.get_experiment_by_name("sca-dm")
        experiment = known.experiment_id if known else self.client.create_experiment("sca-dm", artifact_location=local)
        self.run = self.client.create_run(experiment).info.run_id
        weights = Store(str(folder / "storage" / "runs" / "a" / "final"))
        write_checkpoint(weights, {"weights": {"a": torch.zeros(3)}}, {"step": 1})
        trained = {"run_key": "a", "weights": "runs/a/final", "sha256": digest_of(weights), "mlflow_run": self.run}
        (folder / "models" / "train.json").write_text(json.dumps(trained))
        (folder / "models" / "autoencoder").mkdir()
        Manifest(stage="autoencoder").write(folder / "models" / "autoencoder")
        self.evaluate(0.65)

    def evaluate(self, ssim: float, **changes: Any) -> None:
        """Put an evaluation with this reconstruction into reports/."""
        write(self.folder / "reports", ssim, run=self.run, **changes)

    @property
    def registration(self) -> dict[str, Any]:
        return json.loads((self.folder / "reports" / "registration.json").read_text())

    @property
    def versions(self) -> list[str]:
        return sorted(str(found.version) for found in self.client.search_model_versions(f"name = '{NAME}'"))

    @property
    def aliases(self) -> dict[str, str]:
        return {alias: str(number) for alias, number in self.client.get_registered_model(NAME).aliases.items()}
