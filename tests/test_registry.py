"""The registry of models, on a real SQLite store."""

import os
from pathlib import Path
from typing import Any

import mlflow
import pytest
from evaluations import metrics, scores
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from registered import Shelf

from scadm.config import flatten
from scadm.registry import Registry, Version, fetch_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one store for all tests here."""
    return tmp_path_factory.mktemp("registry")


def shelf(folder: Path, name: str) -> Shelf:
    return Shelf(folder, name)


def test_an_evaluation_is_registered_once(folder: Path) -> None:
    faces = shelf(folder, "faces")
    assert faces.registry.versions() == [], "of a name that nobody has used"
    first = faces.registered(0.6)
    assert (first.name, first.number, first.uri, first.label) == ("faces", "1", "models:/faces/1", "faces/1")
    assert first.test_split == "same"
    assert faces.registered(0.6) == first
    assert faces.registered(0.7).number == "2"
    assert shelf(folder, "others").registered(0.6).number == "1", "each name has versions of its own"
    assert faces.client.get_model_version("faces", "1").description == "a model"


def test_a_version_holds_its_evaluation_and_fetches_that_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the weights, which may be gigabytes."""
    version = shelf(folder, "measured").registered(0.65)
    again = Registry(version.store, "measured").by_number(version.number)
    assert again == version
    fetched: list[str] = []
    download = LocalArtifactRepository._download_file

    def noted(self: Any, remote_file_path: str, local_path: str) -> None:
        fetched.append(remote_file_path)
        download(self, remote_file_path, local_path)

    monkeypatch.setattr(LocalArtifactRepository, "_download_file", noted)
    assert again.evaluated.metrics == metrics(0.65)
    assert again.evaluated.ssim == scores(0.65)
    kept = {Path(name).name for name in fetched}
    assert kept == {"metrics.json", "evaluation.json", "faces.csv", "card.md"}
    assert again.evaluated is again.evaluated, "once"


def test_metrics_are_not_among_the_tags(folder: Path) -> None:
    """They grow, and a tag may not."""
    tagged = shelf(folder, "tagged")
    tags = tagged.client.get_model_version("tagged", tagged.registered(0.6).number).tags
    assert set(tags) == {"scadm.test_split", "scadm.evaluation"}


def test_an_evaluation_that_is_gone_is_one_message(folder: Path) -> None:
    lost = shelf(folder, "lost")
    version = lost.registered(0.6)
    place = Path(lost.client.get_model_version_download_uri("lost", version.number).removeprefix("file://"))
    (place / "artifacts" / "evaluation" / "faces.csv").unlink()
    with pytest.raises(ValueError, match=r"the evaluation of models:/lost/1 cannot be read .*faces\.csv") as refused:
        _ = version.evaluated
    assert "`dvc exp run -S training.init_from=models:/lost/1 -S training.steps=0`" in str(refused.value)
    assert "`scadm promote VERSION --force`" in str(refused.value)


def test_a_version_without_an_evaluation_says_so(folder: Path) -> None:
    bare = shelf(folder, "bare")
    version = bare.registry.register(bare.run(), **bare.arguments(None, test_split=""))
    with pytest.raises(ValueError, match="the evaluation of models:/bare/1 cannot be read"):
        _ = version.evaluated


def test_a_description_that_was_not_heard_is_said_again(folder: Path) -> None:
    said = shelf(folder, "said")
    version = said.registered(0.6)
    said.client.update_model_version("said", version.number, "")
    said.registered(0.6)
    assert said.client.get_model_version("said", version.number).description == "a model"


def test_a_long_description_is_cut_and_says_where_the_rest_is(folder: Path) -> None:
    long = shelf(folder, "long")
    version = long.registry.register(long.run(), **long.arguments(None, description="x" * 6000))
    kept = long.client.get_model_version("long", version.number).description or ""
    assert len(kept) == 5000 and kept.endswith("card.md.*")


def test_a_registered_run_has_the_parameters_that_every_run_has(folder: Path) -> None:
    """MLflow adds a model's configuration to them: under the names that they have already, so that runs compare."""
    sampling = {"steps": 4, "eta": 0.0, "guidance_interval": [0.0, 1.0], "solver": "ddim"}
    compared = shelf(folder, "compared")
    run_id = compared.run()
    compared.registry.register(run_id, **compared.arguments(None, sampling=sampling))
    assert compared.client.get_run(run_id).data.params == flatten({"sampling": sampling})


def test_aliases_point_to_one_version_each(folder: Path) -> None:
    aliased = shelf(folder, "aliased")
    registry = aliased.registry
    assert registry.by_alias("champion") is None, "of a name that nobody has used"
    assert registry.by_number("7") is None
    first, second = aliased.registered(0.6), aliased.registered(0.7)
    assert registry.by_alias("champion") is None
    registry.point("candidate", first)
    registry.point("champion", first)
    registry.point("candidate", second)
    assert registry.by_alias("candidate") == second == registry.by_number("2")
    assert registry.by_alias("champion") == first


def test_weights_of_a_version_or_an_alias_are_fetched(folder: Path, tmp_path: Path) -> None:
    held = shelf(folder, "fetched")
    first = held.registered(0.6)
    (folder / "weights" / "file.txt").write_text("others")
    second = held.registered(0.7)
    (folder / "weights" / "file.txt").write_text("weights")
    held.registry.point("champion", second)

    def fetched(model_uri: str, name: str) -> str:
        (tmp_path / name).mkdir()
        place = fetch_weights(held.uri, model_uri, tmp_path / name)
        assert place.is_relative_to(tmp_path / name)
        assert [path.name for path in place.iterdir()] == ["file.txt"], "the weights alone"
        return (place / "file.txt").read_text()

    assert fetched(first.uri, "a") == "weights"
    assert fetched(second.uri, "b") == "others"
    assert fetched("models:/fetched@champion", "c") == "others"
    with pytest.raises(MlflowException, match=r"alias nobody not found|nobody"):
        fetch_weights(held.uri, "models:/fetched@nobody", tmp_path)


def test_a_registry_that_is_away_is_one_message_without_passwords() -> None:
    away = Registry("http://me:S3cret@127.0.0.1:1", "faces")
    version = Version("faces", "1", "same", store=away.uri)
    calls = (
        away.versions,
        lambda: away.by_alias("champion"),
        lambda: away.point("champion", version),
        lambda: away.tag(version, "a", "b"),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"the model registry http://\*\*\*@127.0.0.1:1 failed") as refused:
            call()
        assert "run the same command again" in str(refused.value) and "S3cret" not in str(refused.value)


def test_the_process_s_own_addresses_stay_as_they_were(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every later program of this one would work in the registry that was asked last."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    held = shelf(folder, "addresses")
    version = held.registered(0.6)
    fetch_weights(held.uri, version.uri, tmp_path)
    assert version.evaluated.test_split == "same"
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == f"sqlite:///{tmp_path}/other.db"
    assert "MLFLOW_REGISTRY_URI" not in os.environ
