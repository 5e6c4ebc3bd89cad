"""MLflow, on a real SQLite store."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from scadm import tracking
from scadm.config import TrackingConfig, flatten
from scadm.store import Store
from scadm.tracking import RUN_KEY, RunLogger, Tracked, open_run, tracking_uri

SQLITE = TrackingConfig(uri="sqlite", experiment="sca-dm", machine_metrics_s=0)
PARAMS: dict[str, Any] = {"training": {"steps": 40, "betas": [0.9, 0.99]}, "seed": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests here: making its tables takes a few seconds. Each test has run keys of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def opened(home: Path) -> Callable[..., Tracked]:
    def run(key: str, **changes: Any) -> Tracked:
        given = {
            "name": f"run-{key}",
            "params": PARAMS,
            "tags": {"scadm.git_commit": "abc"},
            "dataset": ("synthetic", str(home), "0" * 64),
        }
        return open_run(SQLITE, home, key, **(given | changes))

    return run


def test_the_store_s_address(tmp_path: Path) -> None:
    assert tracking_uri(SQLITE, tmp_path) == f"sqlite:///{tmp_path}/storage/mlflow.db"
    assert (tmp_path / "storage").is_dir()
    server = TrackingConfig(uri="http://127.0.0.1:5000", experiment="x", machine_metrics_s=0)
    assert tracking_uri(server, tmp_path) == "http://127.0.0.1:5000"


def test_one_run_for_a_run_key(opened: Callable[..., Tracked]) -> None:
    first = opened("1111")
    again = opened("1111", tags={"scadm.git_commit": "def"}, params=PARAMS | {"seed": 9})
    assert again == first
    assert opened("2222").run_id != first.run_id
    client = MlflowClient(first.uri)
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], f"tags.`{RUN_KEY}` = '1111'")) == 1
    run = client.get_run(first.run_id)
    assert run.data.params == flatten(PARAMS), "written once, when the run was made"
    assert run.data.tags["scadm.git_commit"] == "def", "tags are those of the last launch"
    assert run.data.tags[RUN_KEY] == "1111"
    assert run.info.run_name == "run-1111"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("synthetic", "0" * 36)


def test_more_params_than_one_call_takes(opened: Callable[..., Tracked]) -> None:
    many = {f"p{i:03d}": i for i in range(230)}
    tracked = opened("3333", params=many)
    assert len(MlflowClient(tracked.uri).get_run(tracked.run_id).data.params) == 230


def test_a_run_ends_as_finished_or_failed(opened: Callable[..., Tracked]) -> None:
    tracked = opened("4444")
    client = MlflowClient(tracked.uri)

    def status() -> str:
        return client.get_run(tracked.run_id).info.status

    with pytest.raises(RuntimeError, match="killed"), tracking.ending(tracked):
        assert status() == "RUNNING"
        raise RuntimeError("killed")
    assert status() == "FAILED"
    with tracking.ending(tracked):
        assert status() == "RUNNING", "a resumed run runs again"
    assert status() == "FINISHED"


def test_a_logger_writes_metrics_pictures_and_artifacts(
    opened: Callable[..., Tracked], home: Path, tmp_path: Path
) -> None:
    tracked = opened("5555")
    logger = RunLogger(tracked)
    logger.log(3, {"train/loss": 0.5, "train/lr": 1e-3})
    logger.log(4, {"train/loss": 0.25})
    logger.picture(4, "samples", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "report.html").write_text("report")
    logger.artifact(tmp_path / "report.html", "reports")
    final = Store(str(tmp_path / "final"))
    final.write("config.json", b"{}")
    tracking.keep_weights(tracked, final)
    assert logger.failures == 0
    history = MlflowClient(tracked.uri).get_metric_history(tracked.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(3, 0.5), (4, 0.25)]
    fetched = tracking.fetch_artifacts(tracked, "weights", tmp_path)
    assert (fetched / "config.json").read_bytes() == b"{}"
    assert list((home / "storage" / "mlartifacts").rglob("samples*.png"))
    assert list((home / "storage" / "mlartifacts").rglob("report.html"))


def test_an_evaluation_is_logged_by_task_row_and_metric(opened: Callable[..., Tracked], tmp_path: Path) -> None:
    tracked = opened("7777")
    (tmp_path / "figures").mkdir()
    (tmp_path / "index.html").write_text("report")
    metrics = {
        "reconstruction": {"model": {"ssim": 0.5}, "ceiling": {"ssim": 0.75}},
        "swap_hair": {"model": {"transfer": 0.625}},
    }
    tracking.log_evaluation(tracked, metrics, tmp_path)
    assert MlflowClient(tracked.uri).get_run(tracked.run_id).data.metrics == {
        "reconstruction/model/ssim": 0.5,
        "reconstruction/ceiling/ssim": 0.75,
        "swap_hair/model/transfer": 0.625,
    }


def test_another_evaluation_of_a_training_has_a_run_of_its_own(opened: Callable[..., Tracked], home: Path) -> None:
    """Else a second experiment with the same weights would overwrite the first one's metrics."""
    trained = opened("7777")
    run_of = partial(tracking.evaluation_run, SQLITE, home, trained)
    assert run_of("e1", PARAMS) == trained == run_of("e1", PARAMS)
    other = run_of("e2", PARAMS | {"seed": 9})
    assert other != trained and run_of("e2", PARAMS) == other
    assert run_of("e1", PARAMS) == trained, "the first one stays where it is"
    found = MlflowClient(trained.uri).get_run(other.run_id)
    assert (found.data.params["seed"], found.info.status) == ("9", "FINISHED")
    assert found.data.tags["mlflow.parentRunId"] == trained.run_id
    assert found.data.tags["scadm.git_commit"] == "abc" and found.data.tags[RUN_KEY] == "e2"
    assert found.info.run_name == "run-7777-evaluation-e2"
    later = opened("8888")
    assert run_of.func(SQLITE, home, later, "e3", PARAMS | {"seed": 9}) != later, "changed between the two stages"
    assert run_of.func(SQLITE, home, later, "e4", PARAMS) == later


def test_a_store_that_fails_is_counted_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1" if name.endswith("TIMEOUT") else "0")
    logger = RunLogger(Tracked("http://127.0.0.1:9", "nobody"))  # the port of `discard`, where nothing listens
    logger.log(1, {"loss": 1.0})
    logger.log(2, {"loss": 1.0})
    logger.picture(2, "samples", np.zeros((4, 4, 3), np.uint8))
    assert logger.failures == 3
    said = capsys.readouterr().out
    assert said.count("warning: MLflow at http://127.0.0.1:9 failed") == 1
    assert "Going on without it" in said


def test_a_logger_goes_on_when_the_store_is_back(
    opened: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = opened("6666")
    logger = RunLogger(tracked)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", unreachable)
        logger.log(1, {"loss": 1.0})
    logger.log(2, {"loss": 0.5})
    assert logger.failures == 1
    assert MlflowClient(tracked.uri).get_run(tracked.run_id).data.metrics == {"loss": 0.5}
