"""What a training writes into MLflow: every step once, whatever happens to the store, and never waiting for it."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer
from numpy.typing import NDArray
from projects import wait_for

from scadm import tracking
from scadm.config import TrackingConfig
from scadm.tracking import RunLogger, Tracked, replay
from scadm.tracking.store import asking

PICTURE: NDArray[np.uint8] = np.zeros((4, 4, 3), np.uint8)
NOBODY = Tracked("http://somebody:mysecret@127.0.0.1:9", "nobody")
"""The port of `discard`, where nothing listens."""


def opened(uri: str, home: Path, key: str) -> Tracked:
    config = TrackingConfig(uri=uri, experiment="sca-dm", machine_metrics_s=0)
    return tracking.open_run(config, home, key, name=key, params={"seed": 0}, tags={}, dataset=None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests here: making its tables takes a few seconds. Each test has a run of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def tracked(home: Path, request: pytest.FixtureRequest) -> Tracked:
    return opened("sqlite", home, request.node.name)


def history(tracked: Tracked, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracked.uri).get_metric_history(tracked.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def pictures(tracked: Tracked) -> list[str]:
    found = MlflowClient(tracked.uri).list_artifacts(tracked.run_id, "images")
    return sorted(Path(file.path).name.partition("+timestamp")[0] for file in found if file.path.endswith(".png"))


def rows(steps: range, **more: float) -> list[dict[str, float]]:
    return [{"step": step, "train/loss": 1 / step, **more} for step in steps]


def test_steps_that_are_done_again_after_a_kill_are_there_once(tracked: Tracked) -> None:
    """As with a remote journal, which is written with each checkpoint: the new process does not know of them."""
    with RunLogger(tracked) as logger:
        for step in range(1, 9):
            logger.log(step, {"train/loss": 1 / step}, at=1000 + step)
    with RunLogger(tracked) as again:
        again.catch_up(rows(range(1, 6)))  # the checkpoint's
        for step in range(6, 11):
            again.log(step, {"train/loss": 9.0, "validation/loss": 1.0}, at=2000 + step)
    assert history(tracked, "train/loss") == [(s, 1 / s) for s in range(1, 9)] + [(9, 9.0), (10, 9.0)]
    assert history(tracked, "validation/loss") == [(s, 1.0) for s in range(6, 11)]


def test_metrics_and_pictures_arrive_in_order(tracked: Tracked) -> None:
    with RunLogger(tracked) as logger:
        for step in range(1, 2001):  # more than two calls take
            logger.log(step, {"train/loss": 1 / step, "train/lr": 0.5})
        logger.picture(7, "samples/faces", PICTURE)
        assert logger.flush(60)
        assert (logger.failures, logger.waiting) == (0, 0)
    assert history(tracked, "train/loss") == [(step, 1 / step) for step in range(1, 2001)]
    assert len(history(tracked, "train/lr")) == 2000
    assert pictures(tracked) == ["samples~faces+step+7"]


def test_what_is_logged_within_some_seconds_takes_one_call(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those who wait for it do not wait for the next one."""
    calls: list[list[int]] = []
    send = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Any) -> Any:
        calls.append([metric.step for metric in metrics])
        return send(self, run_id, metrics=metrics)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    with RunLogger(tracked, every=600) as logger:
        logger.log(1, {"train/loss": 1.0})
        assert logger.flush(30)
        logger.log(2, {"train/loss": 1.0})
        logger.log(3, {"train/loss": 1.0})
        assert logger.waiting == 2
        assert logger.flush(30)
        logger.log(4, {"train/loss": 1.0})
    assert calls == [[1], [2, 3], [4]]


def test_a_picture_of_a_step_that_is_done_again_is_there_once(tracked: Tracked) -> None:
    for _ in range(2):  # the second time as after a restart
        with RunLogger(tracked) as logger:
            logger.picture(7, "samples", PICTURE)
            logger.picture(8, "samples", PICTURE)
            logger.picture(8, "samples", PICTURE)
    assert pictures(tracked) == ["samples+step+7", "samples+step+8"]


def test_what_mlflow_lacks_of_the_journal_is_found_metric_by_metric(tracked: Tracked) -> None:
    with RunLogger(tracked) as logger:
        logger.log(1, {"train/loss": 1.0})
        logger.log(3, {"train/loss": 1 / 3})
    journal = rows(range(1, 5)) + [{"step": 2, "validation/loss": 0.5}, {"step": 4, "validation/loss": 0.25}]
    assert replay(tracked, journal) == 4, "steps 2 and 4, of both"
    assert replay(tracked, journal) == 0
    assert history(tracked, "train/loss") == [(step, 1 / step) for step in range(1, 5)]
    assert history(tracked, "validation/loss") == [(2, 0.5), (4, 0.25)]


def test_a_restarted_training_catches_up_and_goes_on(tracked: Tracked) -> None:
    with RunLogger(tracked) as logger:
        logger.log(2, {"train/loss": 0.5})
    journal = rows(range(1, 4))
    with RunLogger(tracked) as logger, asking():  # so that the logger has compared nothing yet
        logger.catch_up(journal)
        for row in rows(range(4, 8)):
            journal.append(row)  # as the loop's own does
            logger.log(int(row["step"]), {"train/loss": row["train/loss"]})
    assert history(tracked, "train/loss") == [(step, 1 / step) for step in range(1, 8)]


def test_the_journal_s_times_are_kept(tracked: Tracked) -> None:
    with RunLogger(tracked) as logger:
        logger.catch_up(rows(range(1, 3), time=1_700_000_000_000))
        logger.log(3, {"train/loss": 1.0}, at=1_700_000_000_001)
    found = MlflowClient(tracked.uri).get_metric_history(tracked.run_id, "train/loss")
    assert sorted(metric.timestamp for metric in found) == [1_700_000_000_000] * 2 + [1_700_000_000_001]
    assert set(MlflowClient(tracked.uri).get_run(tracked.run_id).data.metrics) == {"train/loss"}


def test_a_row_that_was_sent_twice_is_kept_once(tracked: Tracked) -> None:
    """As after a call that was carried out although its answer was lost."""
    for _ in range(2):
        with RunLogger(tracked) as logger:
            logger.log(1, {"train/loss": 1.0}, at=1_700_000_000_000)
            logger.log(2, {"train/loss": float("nan")}, at=1_700_000_000_000)
    assert len(MlflowClient(tracked.uri).get_metric_history(tracked.run_id, "train/loss")) == 2


def test_a_store_that_fails_is_said_once_and_without_its_password() -> None:
    said: list[str] = []
    logger = RunLogger(NOBODY, say=said.append, pause=0.05)
    logger.log(1, {"loss": 1.0})
    wait_for("some failures", lambda: logger.failures >= 3, 30)
    logger.log(2, {"loss": 1.0})
    logger.picture(2, "samples", PICTURE)
    assert logger.close(timeout=0.5) == 3
    assert [text.partition(" ")[0] for text in said] == ["warning:"] * 3
    failed, rows_left, pictures_left = said
    assert "MLflow at http://***@127.0.0.1:9 failed" in failed and "sent when it answers again" in failed
    assert "2 rows of metrics are not in MLflow" in rows_left and "dvc repro --force --single-item train" in rows_left
    assert "1 pictures are not in MLflow" in pictures_left
    assert not any("mysecret" in text for text in said)


def test_a_listener_that_fails_ends_nothing() -> None:
    def gone(text: str) -> None:
        raise RuntimeError("the board is gone")

    logger = RunLogger(NOBODY, say=gone, pause=0.05)
    logger.log(1, {"loss": 1.0})
    wait_for("some failures", lambda: logger.failures >= 2, 30)
    assert logger.close(timeout=0.5) == 1


def test_pictures_that_wait_are_bounded() -> None:
    logger = RunLogger(NOBODY, say=lambda _: None, pause=0.05)
    for step in range(30):
        logger.picture(step, "samples", PICTURE)
    assert logger.lost == 10
    assert logger.close(timeout=0.1) == 20


def test_pictures_are_not_kept_waiting_for_one_another(tracked: Tracked) -> None:
    with RunLogger(tracked, every=3) as logger:
        for step in range(20):
            logger.picture(step, "samples", PICTURE)
        wait_for("all of them", lambda: len(pictures(tracked)) == 20, 30)
        assert logger.lost == 0


def test_pictures_that_are_refused_do_not_keep_metrics_waiting(tracked: Tracked) -> None:
    said: list[str] = []
    with RunLogger(tracked, say=said.append, every=0, pause=0.01) as logger:
        logger.picture(0, "no such name: ?", PICTURE)
        logger.picture(1, "samples", PICTURE)
        step = 0

        def given_up() -> bool:
            nonlocal step
            step += 1
            logger.log(step, {"train/loss": 1.0})
            return logger.lost == 1

        wait_for("the picture is given up", given_up, 30)
        assert logger.flush(30)
    assert pictures(tracked) == ["samples+step+1"]
    assert len(history(tracked, "train/loss")) == step
    assert sum("did not take a picture" in text for text in said) == 1


def test_replaying_to_a_store_that_is_away_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(NOBODY, rows(range(1, 3))) == 0
    said = capsys.readouterr().out
    assert "warning: MLflow at http://***@127.0.0.1:9 failed" in said
    assert "`dvc repro --force --single-item train`" in said


def test_a_store_that_takes_calls_and_never_answers_delays_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        logger = RunLogger(Tracked(f"http://127.0.0.1:{silent.getsockname()[1]}", "nobody"), say=lambda _: None)
        start = time.monotonic()
        for step in range(1000):
            logger.log(step, {"loss": 1.0})
        assert time.monotonic() - start < 2
        assert logger.close(timeout=0.5) == 1000
        assert time.monotonic() - start < 5


# --- a real server --------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path) as server:
        yield server


@pytest.mark.slow
def test_a_server_that_dies_and_returns_loses_nothing(
    server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked, said = opened(server.uri, tmp_path, "dies"), []
    journal: list[dict[str, Any]] = []
    logger = RunLogger(tracked, say=said.append, every=0, pause=0.2)

    def train(steps: range) -> float:
        """Seconds that the longest step waited."""
        longest = 0.0
        for step in steps:
            journal.append({"step": step, "time": int(time.time() * 1000), "train/loss": 1 / step})
            start = time.monotonic()
            logger.log(step, {"train/loss": 1 / step}, at=journal[-1]["time"])
            longest = max(longest, time.monotonic() - start)
            time.sleep(0.01)
        return longest

    train(range(1, 21))
    server.kill()  # in the middle of it
    train(range(21, 41))
    logger.picture(40, "samples", PICTURE)
    wait_for("a failure", lambda: logger.failures > 0, 30)
    with tracking.ending(tracked):
        pass  # a training that ends meanwhile has ended well
    assert "The run's status there is not yet FINISHED" in capsys.readouterr().out
    server.start()
    assert logger.flush(30)
    complete = [(step, 1 / step) for step in range(1, 41)]
    assert history(tracked, "train/loss") == complete
    assert pictures(tracked) == ["samples+step+40"]
    assert len(said) == 2, said
    assert "failed" in said[0] and "answers again" in said[1] and "rows that had waited were sent" in said[1]

    server.send(signal.SIGSTOP)
    assert train(range(41, 61)) < 2, "a server that hangs delays no step"
    assert logger.close(timeout=1) > 0
    server.send(signal.SIGCONT)  # and now carries out what it was asked before, while the journal is compared
    assert 0 <= replay(tracked, journal) <= 20
    with RunLogger(tracked) as again:
        again.catch_up(journal)
        again.log(61, {"train/loss": 1 / 61})
        assert again.flush(30)
    assert history(tracked, "train/loss") == [(step, 1 / step) for step in range(1, 62)]
    with tracking.ending(tracked):
        assert MlflowClient(server.uri).get_run(tracked.run_id).info.status == "RUNNING"
    assert MlflowClient(server.uri).get_run(tracked.run_id).info.status == "FINISHED"
