"""The registry of models, on a real SQLite store."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from scadm import profiles
from scadm.config import Params, flatten, validate
from scadm.registry import Metrics, Registry, Version, describe, fetch_weights

ROOT = Path(__file__).resolve().parents[1]
METRICS: Metrics = {"reconstruction": {"model": {"ssim": 0.5, "psnr": 20.0, "miou": 0.25, "accuracy": 0.75}}}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests here."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(uri).create_experiment("sca-dm", artifact_location=str(folder / "artifacts"))
    return uri


@pytest.fixture
def register(uri: str, tmp_path: Path) -> Callable[..., Version]:
    for name in ("weights", "autoencoder", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.txt").write_text(name)

    def run(name: str, **changes: Any) -> Version:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("sca-dm")
        assert experiment is not None
        given: dict[str, Any] = {
            "weights": str(tmp_path / "weights"),
            "autoencoder": str(tmp_path / "autoencoder"),
            "code": [str(tmp_path / "code")],
            "sampling": {"steps": 4, "eta": 0.0, "guidance_scale": 0.0},
            "metrics": METRICS,
            "test_split": "a" * 64,
            "evaluation": "1" * 64,
            "description": "a model",
        }
        run_id = client.create_run(experiment.experiment_id).info.run_id
        return Registry(uri, name).register(run_id, **(given | changes))

    return run


def test_an_evaluation_is_registered_once(uri: str, register: Callable[..., Version]) -> None:
    assert list(MlflowClient(uri).search_model_versions("name = 'faces'")) == [], "of a name that nobody has used"
    first = register("faces")
    assert (first.name, first.number, first.uri) == ("faces", "1", "models:/faces/1")
    assert (first.metrics, first.test_split) == (METRICS, "a" * 64)
    assert register("faces") == first
    assert register("faces", evaluation="2" * 64).number == "2"
    assert register("others").number == "1", "each name has versions of its own"
    found = MlflowClient(uri).get_model_version("faces", "1")
    assert found.description == "a model"


def test_a_registered_run_has_the_parameters_that_every_run_has(uri: str, register: Callable[..., Version]) -> None:
    """MLflow adds a model's configuration to them: under the names that they have already, so that runs compare."""
    sampling = {"steps": 4, "eta": 0.0, "guidance_interval": [0.0, 1.0], "solver": "ddim"}
    version = register("compared", sampling=sampling)
    client = MlflowClient(uri)
    run = client.get_run(client.get_model_version("compared", version.number).run_id or "")
    assert run.data.params == flatten({"sampling": sampling})


def test_aliases_point_to_one_version_each(uri: str, register: Callable[..., Version]) -> None:
    registry = Registry(uri, "aliased")
    assert registry.by_alias("champion") is None, "of a name that nobody has used"
    first, second = register("aliased"), register("aliased", evaluation="2" * 64)
    assert registry.by_alias("champion") is None
    registry.point("candidate", first)
    registry.point("champion", first)
    registry.point("candidate", second)
    assert registry.by_alias("candidate") == second
    assert registry.by_alias("champion") == first


def test_weights_of_a_version_or_an_alias_are_fetched(
    uri: str, register: Callable[..., Version], tmp_path: Path
) -> None:
    first = register("fetched")
    (tmp_path / "weights" / "file.txt").write_text("others")
    second = register("fetched", evaluation="2" * 64)
    Registry(uri, "fetched").point("champion", second)

    def fetched(model_uri: str, name: str) -> str:
        (tmp_path / name).mkdir()
        folder = fetch_weights(uri, model_uri, tmp_path / name)
        assert folder.is_relative_to(tmp_path / name)
        assert [path.name for path in folder.iterdir()] == ["file.txt"], "the weights alone"
        return (folder / "file.txt").read_text()

    assert fetched(first.uri, "a") == "weights"
    assert fetched(second.uri, "b") == "others"
    assert fetched("models:/fetched@champion", "c") == "others"
    with pytest.raises(MlflowException, match=r"alias nobody not found|nobody"):
        fetch_weights(uri, "models:/fetched@nobody", tmp_path)


@pytest.fixture(scope="module")
def params() -> Params:
    return validate(yaml.safe_load(profiles.render("quickstart", ROOT / "conf")), "quickstart")


def test_a_description_says_what_was_measured_and_what_may_be_done(params: Params) -> None:
    text = describe(params, METRICS, {"faces": 120, "parser": "small-64"})
    assert "Measured on 120 test faces (reconstruction, parser small-64)" in text
    assert "| model | 0.500 | 0.250 | 0.750 |" in text
    assert "free of any person's likeness" in text
    assert text.startswith(f"SCA-DM at 64 pixels, trained for {params.training.steps} steps.\n")
    real = params.model_copy(update={"data": params.data.model_copy(update={"source": "celebamask-hq"})})
    assert "non-commercial research only" in describe(real, METRICS, {"faces": 120, "parser": "small-64"})


@pytest.mark.parametrize(
    ("steps", "said"), [(0, "64 pixels, the weights of"), (7, "64 pixels, trained for 7 steps from the weights of")]
)
def test_a_description_says_which_weights_it_started_from(params: Params, steps: int, said: str) -> None:
    """Made of CelebAMask-HQ, they are not free because the faces of this training are drawn."""
    training = params.training.model_copy(update={"init_from": "imports/abc", "steps": steps})
    text = describe(params.model_copy(update={"training": training}), METRICS, {"faces": 120, "parser": "small-64"})
    assert f"{said} imports/abc, whose terms hold for this model too." in text


def test_the_process_s_own_addresses_stay_as_they_were(
    register: Callable[..., Version], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every later program of this one would work in the registry that was asked last."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    version = register("addresses")
    fetch_weights(uri, version.uri, tmp_path)
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == f"sqlite:///{tmp_path}/other.db"
    assert "MLFLOW_REGISTRY_URI" not in os.environ
