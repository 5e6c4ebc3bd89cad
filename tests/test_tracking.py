"""MLflow, on a real SQLite store."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from scadm import tracking
from scadm.config import TrackingConfig, flatten
from scadm.files.store import Store
from scadm.tracking import RUN_KEY, Tracked, open_run, tracking_uri
from scadm.tracking.store import asking, impatient

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


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED"), (SystemExit(1), "FAILED"), (ValueError(), "FAILED")],
)
def test_a_run_that_was_stopped_is_killed(opened: Callable[..., Tracked], error: BaseException, status: str) -> None:
    tracked = opened(f"stopped-{error!r}")
    with pytest.raises(type(error)), tracking.ending(tracked):
        raise error
    assert MlflowClient(tracked.uri).get_run(tracked.run_id).info.status == status


def test_weights_are_kept_once_and_whole(opened: Callable[..., Tracked], tmp_path: Path) -> None:
    tracked = opened("5555")
    final = Store(str(tmp_path / "final"))
    final.write("config.json", b"{}")
    final.write("weights.safetensors", b"1234")
    client = MlflowClient(tracked.uri)
    client.log_text(tracked.run_id, "{}", "weights/config.json")
    client.log_text(tracked.run_id, "12", "weights/weights.safetensors")  # as of an upload that was cut off
    assert tracking.keep_weights(tracked, final) and tracking.keep_weights(tracked, final)
    fetched = tracking.fetch_artifacts(tracked, "weights", tmp_path)
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == {
        "config.json": b"{}",
        "weights.safetensors": b"1234",
    }


def test_what_a_killed_launcher_left_out_is_added(home: Path, opened: Callable[..., Tracked]) -> None:
    client = MlflowClient(opened("9999").uri)
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    made = client.create_run(experiment.experiment_id, tags={RUN_KEY: "half"}).info.run_id
    client.log_param(made, "seed", "7")
    assert opened("half").run_id == made
    run = client.get_run(made)
    assert run.data.params == flatten(PARAMS) | {"seed": "7"}, "what is there stays"
    assert len(run.inputs.dataset_inputs) == 1
    opened("half")
    assert len(client.get_run(made).inputs.dataset_inputs) == 1


def test_of_two_runs_with_one_key_it_is_always_the_older(opened: Callable[..., Tracked]) -> None:
    first = opened("twice")
    client = MlflowClient(first.uri)
    client.create_run(client.get_run(first.run_id).info.experiment_id, tags={RUN_KEY: "twice"})
    assert opened("twice") == first


def test_a_run_is_named_after_its_experiment(opened: Callable[..., Tracked]) -> None:
    tags = {"scadm.dvc_experiment": "warm-otter", "scadm.dvc_baseline": "abc"}
    tracked = opened("named", tags=tags)
    run = MlflowClient(tracked.uri).get_run(tracked.run_id)
    assert run.info.run_name == "run-named-warm-otter"
    assert tags.items() <= run.data.tags.items()


def test_no_secret_gets_into_a_run(opened: Callable[..., Tracked]) -> None:
    root = "s3://AKIAABCDEFGHIJKLMNOP:mysecret@bucket/runs?secret_key=mysecret&region=eu"
    tracked = opened(
        "secret",
        params={"storage": {"root": root}, "long": "x" * 9000},
        tags={"scadm.note": f"from {root}"},
        dataset=("synthetic", root, "0" * 64),
    )
    run = MlflowClient(tracked.uri).get_run(tracked.run_id)
    assert run.data.params["storage.root"] == "s3://***@bucket/runs?secret_key=***&region=eu"
    assert len(run.data.params["long"]) == 6000
    assert "mysecret" not in str(run.to_dictionary()) and "AKIA" not in str(run.to_dictionary())


def test_an_evaluation_is_logged_by_task_row_and_metric(opened: Callable[..., Tracked], tmp_path: Path) -> None:
    tracked = opened("7777")
    (tmp_path / "figures").mkdir()
    (tmp_path / "index.html").write_text("report")
    measures = {
        "reconstruction": {"model": {"ssim": (0.5, 0.25, 0.75)}, "ceiling": {"ssim": (0.75, None, None)}},
        "partial_swap": {"hair": {"transfer": (0.625, None, None)}},
    }
    tracking.log_evaluation(tracked, measures, tmp_path)
    tracking.log_report(tracked, tmp_path / "index.html")
    assert [file.path for file in MlflowClient(tracked.uri).list_artifacts(tracked.run_id, "report")] == [
        "report/index.html"
    ]
    assert MlflowClient(tracked.uri).get_run(tracked.run_id).data.metrics == {
        "reconstruction/model/ssim": 0.5,
        "reconstruction/model/ssim_low": 0.25,
        "reconstruction/model/ssim_high": 0.75,
        "reconstruction/ceiling/ssim": 0.75,
        "partial_swap/hair/transfer": 0.625,
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


def test_an_evaluation_belongs_to_the_experiment_that_makes_it(
    opened: Callable[..., Tracked], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = opened("swept", tags={"scadm.dvc_experiment": "warm-otter", "scadm.dvc_baseline": "abc"})
    monkeypatch.setenv("DVC_EXP_NAME", "cold-heron")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "def")
    other = tracking.evaluation_run(SQLITE, home, trained, "e9", PARAMS | {"seed": 9})
    run = MlflowClient(trained.uri).get_run(other.run_id)
    assert run.info.run_name == "run-swept-warm-otter-evaluation-e9-cold-heron"
    assert (run.data.tags["scadm.dvc_experiment"], run.data.tags["scadm.dvc_baseline"]) == ("cold-heron", "def")


NOBODY = "http://somebody:mysecret@127.0.0.1:9"
"""The port of `discard`, where nothing listens."""


def test_a_store_that_is_away_at_the_start_is_told_before_anything_starts(tmp_path: Path) -> None:
    config = TrackingConfig(uri=NOBODY, experiment="x", machine_metrics_s=0)
    with pytest.raises(
        ValueError, match=r"tracking\.uri is http://\*\*\*@127\.0\.0\.1:9, expected an MLflow"
    ) as raised:
        open_run(config, tmp_path, "key", name="n", params=PARAMS, tags={}, dataset=None)
    assert "Nothing was started" in str(raised.value) and "mysecret" not in str(raised.value)


def test_a_store_that_is_away_at_the_end_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = Store(str(tmp_path / "final"))
    final.write("config.json", b"{}")
    tracked = Tracked(NOBODY, "nobody")
    with tracking.ending(tracked):
        assert not tracking.keep_weights(tracked, final)
    with pytest.raises(RuntimeError, match="killed"), tracking.ending(tracked):
        raise RuntimeError("killed")
    said = capsys.readouterr().out
    assert said.count("warning: MLflow at http://***@127.0.0.1:9 failed") == 5
    assert "dvc repro --force --single-item train" in said and "mysecret" not in said


def test_an_evaluation_goes_on_without_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracked = Tracked(NOBODY, "nobody")
    assert tracking.evaluation_run(SQLITE, tmp_path, tracked, "e1", PARAMS) == tracked
    tracking.log_evaluation(tracked, {"reconstruction": {"model": {"ssim": (0.5, None, None)}}}, tmp_path)
    assert capsys.readouterr().out.count("Going on without it") == 2


def test_mlflow_s_own_patience_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with impatient(), asking():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] != "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_what_ray_may_show_of_a_run_holds_no_password() -> None:
    assert "secret" not in str(Tracked("http://user:secret@host:5000", "1"))
