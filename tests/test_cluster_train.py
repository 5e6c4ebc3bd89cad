"""What a worker of Ray Train does with errors. In this process, without a Ray cluster."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import tiny
import torch
from ray.exceptions import ActorDiedError, GetTimeoutError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from scadm.cluster import session
from scadm.cluster import train as cluster_train
from scadm.cluster.board import Board
from scadm.cluster.train import run_training
from scadm.files import sharing
from scadm.files.manifest import Manifest
from scadm.files.store import Store
from scadm.synthesis import part_ids
from scadm.tracking import Tracked
from scadm.training.lease import Lease

CLUSTER = tiny.CLUSTER.model_copy(update={"max_failures": 2})


class Call:
    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class HereBoard:
    """The board's own methods, called in this process."""

    def __init__(self) -> None:
        board = Board.__ray_metadata__.modified_class()  # type: ignore[attr-defined]
        self.refuse, self.refusal = Call(board.refuse), Call(board.refusal)


class RestartingTrainer:
    """Stands in for TorchTrainer: starts the worker again after each error, `max_failures` times."""

    starts = 0

    def __init__(self, worker: Callable[..., None], *, train_loop_config: dict[str, Any], **given: Any) -> None:
        self.worker, self.config = worker, train_loop_config
        self.failures = given["run_config"].failure_config.max_failures

    def fit(self) -> None:
        for attempt in range(self.failures + 1):
            RestartingTrainer.starts += 1
            try:
                return self.worker(self.config)
            except Exception:
                if attempt == self.failures:
                    raise


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Trains by a function in the loop's place; returns the start at which each of its calls was made."""

    def run(loop: Callable[[], None], lost: bool = False) -> list[int]:
        calls: list[int] = []
        context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_local_rank=lambda: 0)
        completions = iter([False, True])  # before and after the training

        def train(*_: Any) -> None:
            calls.append(RestartingTrainer.starts)
            loop()

        def get(value: Any, timeout: float | None = None) -> Any:
            if lost and timeout is not None:  # a question to the board
                raise GetTimeoutError("the board's node is gone")
            return value

        job = tiny.training_job(tmp_path)
        Manifest(stage="latents").write(Path(job.shards))
        RestartingTrainer.starts = 0
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray, "get", get)
        monkeypatch.setattr(ray, "put", lambda value: value)
        monkeypatch.setattr(cluster_train, "get_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(cluster_train, "connect", lambda _: nullcontext())
        monkeypatch.setattr(cluster_train, "require_reachable", lambda *_: None)
        monkeypatch.setattr(cluster_train, "shown", lambda *_: nullcontext(HereBoard()))
        monkeypatch.setattr(cluster_train, "TorchTrainer", RestartingTrainer)
        monkeypatch.setattr(cluster_train, "is_complete", lambda _: next(completions))
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
        monkeypatch.setattr(cluster_train, "train", train)
        monkeypatch.setattr(cluster_train, "ending", lambda _: nullcontext())
        try:
            run_training(job, CLUSTER, lambda: Tracked("sqlite://", "1"), 0)
        finally:
            run.calls = calls  # type: ignore[attr-defined]
        return calls

    return run


def test_what_is_wrong_is_told_without_trying_it_again(run: Any) -> None:
    with pytest.raises(ValueError, match="unknown part 'beard'"):
        run(lambda: part_ids(["beard"]))
    assert run.calls == [1]


def test_what_a_library_says_of_a_lost_rank_is_tried_again(run: Any) -> None:
    def lost_once() -> None:
        if RestartingTrainer.starts == 1:
            torch.distributed.all_reduce(torch.zeros(1))  # as after the end of the group: a ValueError of torch's

    assert run(lost_once) == [1, 2]
    with pytest.raises(json.JSONDecodeError):
        run(lambda: json.loads("{"))
    assert run.calls == [1, 2, 3]


def failing(failures: dict[int, Exception]) -> Callable[[Any], None]:
    """In the place of Ray's fit: as it ends when its last attempt has failed."""

    def fit(_: Any) -> None:
        raise WorkerGroupError("[Rank 0 Error Snippet]: Traceback (most recent call last)", failures)

    return fit


GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.2]:1")
LOST = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
AWAY = OSError("AWS Error NETWORK_CONNECTION during PutObject operation for s3://AKID:S3cret@bucket")


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({0: GLOO, 1: LOST}, "in rank 1 by ActorDiedError"),
        ({0: GLOO}, "in rank 0 by RuntimeError: .*gloo.*Connection closed"),
        ({0: ValueError("Default process group has not been initialized"), 1: LOST}, "in rank 1 by ActorDiedError"),
        ({0: LOST}, r"in rank 0 by ActorDiedError: .*died unexpectedly"),
        ({0: AWAY}, r"in rank 0 by OSError: AWS Error NETWORK_CONNECTION .* s3://\*\*\*@bucket\."),
        ({0: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")}, "by OutOfMemoryError: CUDA out"),
    ],
)
def test_a_training_that_failed_once_too_often_ends_in_one_message(
    run: Any, monkeypatch: pytest.MonkeyPatch, failures: dict[int, Exception], said: str
) -> None:
    monkeypatch.setattr(RestartingTrainer, "fit", failing(failures))
    with pytest.raises(ValueError, match=rf"once more than cluster\.max_failures 2 allows, .*{said}") as caught:
        run(lambda: None)
    assert "the same command goes on from the last checkpoint" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "failures",
    [
        {0: TypeError("'NoneType' object is not subscriptable"), 1: GLOO},
        {0: ValueError("operands could not be broadcast together with shapes (2,) (3,)")},
        {0: RuntimeError("mat1 and mat2 shapes cannot be multiplied")},
        {0: FileNotFoundError(2, "No such file or directory", "train-00000.tar")},
    ],
)
def test_an_error_of_the_code_keeps_its_traceback(
    run: Any, monkeypatch: pytest.MonkeyPatch, failures: dict[int, Exception]
) -> None:
    monkeypatch.setattr(RestartingTrainer, "fit", failing(failures))
    with pytest.raises(WorkerGroupError, match="Traceback"):
        run(lambda: None)


def test_an_error_that_a_worker_told_is_shown_after_the_last_attempt_too(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(trainer: RestartingTrainer) -> None:
        with pytest.raises(ValueError, match="beard"):
            trainer.worker(trainer.config)
        raise WorkerGroupError("Traceback", {0: ValueError("unknown part 'beard'")})

    monkeypatch.setattr(RestartingTrainer, "fit", fit)
    with pytest.raises(ValueError, match=r"^unknown part 'beard'"):
        run(lambda: part_ids(["beard"]))


def test_a_value_that_pydantic_refuses_is_told_without_trying_it_again(run: Any, tmp_path: Path) -> None:
    (tmp_path / sharing.MARKER).write_text('{"file": null, "files": {"a.tar": {"bytes": 3}}}')
    with pytest.raises(ValueError, match="sha256"):
        run(lambda: sharing.Copy.read(Store(str(tmp_path))))
    assert run.calls == [1]


def test_without_its_board_a_training_goes_on_and_ends_by_ray_s_count(run: Any) -> None:
    assert run(lambda: None, lost=True) == [1]
    with pytest.raises(ValueError, match="unknown part 'beard'"):
        run(lambda: part_ids(["beard"]), lost=True)
    assert run.calls == [1, 2, 3]


def test_who_only_waits_for_a_run_does_not_say_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, said = tiny.training_job(tmp_path), []

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def ending(tracked: Tracked) -> Iterator[None]:
        said.append(tracked)
        yield

    monkeypatch.setattr(cluster_train, "ending", ending)
    monkeypatch.setattr(cluster_train, "attend", interrupted)
    with Lease(Store(job.run)), pytest.raises(KeyboardInterrupt):
        run_training(job, CLUSTER, lambda: pytest.fail("a run in MLflow is its writer's to make"), 0)
    assert said == []


def in_the_run(folder: Path) -> list[str]:
    return [path.name for path in (folder / "run").iterdir() if path.name.startswith(".scadm")]


def test_a_worker_that_sees_other_places_ends_the_training_at_once(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.time, "sleep", lambda _: None)
    fit = RestartingTrainer.fit

    def without(names: str) -> Callable[[RestartingTrainer], None]:
        def elsewhere(trainer: RestartingTrainer) -> None:
            for path in tmp_path.glob(names):
                path.write_bytes(b"another")
            fit(trainer)

        return elsewhere

    for names, said in (
        (
            "run/.scadm-probe-*",
            r"storage\.root .*run as this process does: it read \.scadm-probe-\w+ with sha256 \w+, exp",
        ),
        ("shards/manifest.json", r"the shards in .*it read manifest\.json with sha256"),
    ):
        monkeypatch.setattr(RestartingTrainer, "fit", without(names))
        with pytest.raises(ValueError, match=rf"node \S+ \(127\.0\.0\.1\) does not see {said}"):
            run(lambda: None)
        assert run.calls == [] and RestartingTrainer.starts == 2, "the second start finds the refusal, and ends"
        assert in_the_run(tmp_path) == []


def test_the_token_is_there_as_long_as_it_trains_and_the_shards_are_left_alone(run: Any, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    tiny.training_job(tmp_path)
    before = sorted(path.name for path in (tmp_path / "shards").iterdir())
    run(lambda: seen.extend((in_the_run(tmp_path), sorted(path.name for path in (tmp_path / "shards").iterdir()))))
    assert len(seen[0]) == 1 and seen[1] == sorted([*before, "manifest.json"])
    assert in_the_run(tmp_path) == []
