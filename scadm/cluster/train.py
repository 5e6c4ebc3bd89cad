"""Ray Train around the training loop: it places the workers, restarts them, and connects them by torch.distributed."""

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.train
import ray.util
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.exceptions import TrainingFailedError

from scadm.cluster.board import Remote, shown
from scadm.cluster.evidence import Evidence, content, token
from scadm.cluster.session import connect, require_reachable, require_seen
from scadm.config import ClusterConfig
from scadm.files.checkpoint import is_complete
from scadm.files.manifest import DISK_FULL
from scadm.files.store import Store
from scadm.redaction import one_line, redacted
from scadm.stopping import Stop, stopping
from scadm.tracking import RunLogger, Tracked, ending, machine_metrics
from scadm.training.attend import attend
from scadm.training.hooks import Progress, Wish
from scadm.training.job import TrainJob, Worker
from scadm.training.journal import NOT_METRICS, Row
from scadm.training.lease import Lease, Taken
from scadm.training.loop import train
from scadm.training.parallel import agreed
from scadm.training.saver import FINAL

_PATIENCE = 30.0  # seconds
_ASKS_EVERY = 1.0  # seconds between two questions to the board, or to Ray about its nodes


class RayHooks:
    """The loop's hooks inside a Ray Train worker.

    `board` is the handle of the actor that carries words and progress to the driver; `logger` is rank 0's.
    """

    def __init__(self, board: Any, logger: RunLogger | None) -> None:
        self.board, self.logger = board, logger
        self._asked: Any = None
        self._next_question = 0.0
        self._lost: set[str] = set()

    def say(self, text: str) -> None:
        self.board.say.remote(f"[train] {redacted(text)}")

    def progress(self, total: int, initial: int) -> Progress:
        return Remote(self.board, total, initial)

    def log(self, row: Row) -> None:
        if self.logger is not None:
            metrics = {name: value for name, value in row.items() if name not in NOT_METRICS}
            self.logger.log(int(row["step"]), metrics, at=int(row["time"]))

    def catch_up(self, rows: list[Row]) -> None:
        if self.logger is not None and rows:
            self.logger.catch_up(rows)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        if self.logger is not None:
            self.logger.picture(step, name, image)

    def report(self, metrics: dict[str, float]) -> None:
        # Without Ray's own checkpoints: the loop writes and finds its own, in the one format that runs with and
        # without Ray share, and prunes them, while Ray refuses a run of which an old checkpoint is gone.
        ray.train.report(metrics)

    def wish(self) -> Wish:
        """Rank 0, which has the logger, asks for all.

        It never waits: what was asked of the board after an earlier step is answered after a later one.
        """
        if self.logger is None:
            return Wish.NOTHING
        now = time.monotonic()
        if self._asked is None:
            if now < self._next_question:
                return Wish.NOTHING
            self._asked, self._next_question = self.board.stopping.remote(), now + _ASKS_EVERY
            return Wish.LOOK
        if not ray.wait([self._asked], timeout=0)[0]:
            return Wish.NOTHING
        answer, self._asked = self._asked, None
        with suppress(RayError):  # the driver is gone, and its board: Ray ends this worker
            if ray.get(answer):
                return Wish.STOP
        return Wish.NOTHING

    def losing_machine(self) -> bool:
        """By Ray's notice that a node is drained, as before a spot machine is taken back; once for each node."""
        found = ray.train.get_preemption_info()
        new = set(found.preempted_node_ids) - self._lost if found is not None else set()
        self._lost |= new
        return bool(new)


@dataclass(frozen=True)
class Given:
    """What the driver gives each worker, by reference: Ray's controller need not read it, and shows nothing of it."""

    job: TrainJob
    tracked: Tracked
    board: Any
    evidence: Sequence[Evidence]
    machine_metrics_s: float


def _worker(config: dict[str, Any]) -> None:
    given: Given = ray.get(config["given"])
    context, board = ray.train.get_context(), given.board
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())
    # Ray restarts the workers whatever the error was. After one that no restart mends, all ranks end at once, and
    # by rank 0's word, so that none of them waits for another; the driver then tells the reason.
    if agreed(int(worker.leads and _refusal(board) is not None), worker):
        return
    tracked, say = given.tracked, RayHooks(board, None).say
    # One worker of each node measures it.
    every = given.machine_metrics_s if context.get_local_rank() == 0 else 0
    try:
        require_seen(given.evidence, say)
        with (
            machine_metrics(tracked, ray.util.get_node_ip_address(), every, say=say),
            RunLogger(tracked, say=say) if worker.leads else nullcontext() as logger,
        ):
            train(given.job, worker, RayHooks(board, logger))
    except ValueError as error:
        if _is_own(error):
            with suppress(RayError):  # a board that was lost with its node: Ray's count of restarts ends it then
                ray.get(board.refuse.remote(str(error)), timeout=_PATIENCE)  # known before Ray restarts anything
        raise


def _refusal(board: Any) -> str | None:
    """Why an earlier start of this training has ended for good; None if it has not, or nobody knows any more."""
    try:
        return ray.get(board.refusal.remote(), timeout=_PATIENCE)
    except RayError:
        return None


def _is_own(error: ValueError) -> bool:
    """Whether this project's code raised an error. Then it says what to mend, and would be raised again.

    Libraries raise ValueErrors for other reasons too: torch.distributed where another rank was lost, which a restart
    does mend.
    """
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    while modules and modules[-1].startswith("pydantic."):  # what it says is of a value that our code gave it
        modules.pop()
    return bool(modules) and modules[-1].startswith("scadm.")


def run_training(
    job: TrainJob, cluster: ClusterConfig, open_run: Callable[[], Tracked], machine_metrics_s: int
) -> None:
    """Train `job` on the cluster's workers, or in this process where `workers` is 0.

    `open_run` finds or makes the MLflow run; it is called by the run's one writer, so that no two are made. Each node
    is measured every `machine_metrics_s` seconds, if that is not 0.
    Where another process trains it already, that one's end is awaited. Raises ValueError with the worker's own message
    where the user can mend the fault, and Stopped where the user ended it. A job is done when Ray says so and the
    final weights are there.
    """
    run = Store(job.run)
    while not is_complete(run / FINAL):
        try:
            # Who only waits must not say in MLflow how the run has ended.
            with Lease(run) as lease, ending(tracked := open_run()):
                return _run(replace(job, lease=lease.token), run, cluster, tracked, machine_metrics_s)
        except Taken as taken:
            attend(run, taken.holder, job.training.steps, _say)


def _say(text: str) -> None:
    print(f"[train] {redacted(text)}", flush=True)


def _run(job: TrainJob, run: Store, cluster: ClusterConfig, tracked: Tracked, machine_metrics_s: int) -> None:
    storage, name = os.path.split(job.run)
    # Signals after the connection: Ray takes SIGTERM for itself when it is made, and would end this process at once.
    with (
        connect(cluster),
        stopping(_say) as stop,
        shown("training", stop) as board,
        token("storage.root", job.run, sole=True) as written,  # for nodes that join later, as long as it trains
    ):
        evidence = [written, content("the shards in", job.shards)]
        require_reachable({"tracking.uri": tracked.uri}, evidence)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"given": ray.put(Given(job, tracked, board, evidence, machine_metrics_s))},
            scaling_config=ScalingConfig(num_workers=_workers(cluster), use_gpu=cluster.use_gpu),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=cluster.max_failures),
            ),
        )
        try:
            _fit(trainer, stop)
        except (TrainingFailedError, RayError) as error:
            if (message := _refusal(board) or _lost(error, cluster.max_failures)) is not None:
                raise ValueError(message) from None
            raise
        if (message := _refusal(board)) is not None:
            raise ValueError(message)
        if not is_complete(run / FINAL):
            stop.require_end()
            raise RuntimeError(f"the training ended, but {job.run}/{FINAL} is not a finished checkpoint")


def _workers(cluster: ClusterConfig) -> int | tuple[int, int]:
    fewest = cluster.min_workers or cluster.workers
    return cluster.workers if fewest == cluster.workers else (fewest, cluster.workers)


def _fit(trainer: TorchTrainer, stop: Stop) -> None:
    """`trainer.fit()`, in a thread: in the main one it would take SIGINT for itself, and write no checkpoint first."""
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)  # in pieces, so that a signal is heard
    if failures:
        raise failures[0]


def _lost(error: BaseException, most: int) -> str | None:
    """In words, what ended a training from outside: workers, nodes, memory or a store that were lost once too often.

    None where any rank failed by anything else: that may be a fault of the code, whose traceback is wanted.
    """
    found = getattr(error, "worker_failures", None) or {None: getattr(error, "controller_failure", error)}
    failures = {rank: _innermost(failure) for rank, failure in found.items()}
    outside = {rank: failure for rank, failure in failures.items() if _is_outside(failure)}
    # The other ranks hear of a lost one by an error of torch.distributed, which is no reason.
    if not outside or not all(isinstance(f, RuntimeError | ValueError) or _is_outside(f) for f in failures.values()):
        return None
    rank, failure = min(outside.items(), key=lambda item: type(item[1]) is RuntimeError)
    where = f" in rank {rank}" if rank is not None else ""
    return (
        f"the training failed once more than cluster.max_failures {most} allows, the last time{where} by "
        f"{type(failure).__name__}: {one_line(failure, 500)}. Ray's logs on that node say more "
        "(/tmp/ray/session_latest/logs). Mend the reason, or raise cluster.max_failures; the "
        "same command goes on from the last checkpoint."
    )


def _innermost(failure: BaseException) -> BaseException:
    """What an error that Ray has put around another one is about."""
    while isinstance(inner := getattr(failure, "health_check_failure", getattr(failure, "cause", None)), BaseException):
        failure = inner
    return failure


def _is_outside(failure: BaseException) -> bool:
    """Whether an error comes from what a training runs on. pyarrow's errors of a remote store have no number."""
    if isinstance(failure, OSError):
        return failure.errno in (None, *DISK_FULL) or isinstance(failure, ConnectionError | TimeoutError)
    if isinstance(failure, RayError | RayTrainError | torch.OutOfMemoryError | torch.distributed.DistError):
        return True
    return isinstance(failure, RuntimeError) and ("gloo" in str(failure) or "NCCL" in str(failure))
