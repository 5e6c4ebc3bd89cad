"""Ray Train around the training loop: it places the workers, restarts them, and connects them by torch.distributed."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
from numpy.typing import NDArray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from scadm.checkpoint import Store, is_complete
from scadm.cluster.board import Remote, shown
from scadm.cluster.session import connect, require_reachable
from scadm.config import ClusterConfig
from scadm.tracking import RunLogger, Tracked
from scadm.training.hooks import Progress
from scadm.training.job import TrainJob, Worker
from scadm.training.loop import train


@dataclass(frozen=True)
class RayHooks:
    """The loop's hooks inside a Ray Train worker."""

    board: Any
    """Handle of the actor that carries words and progress to the driver."""
    logger: RunLogger | None
    """On rank 0 only."""

    def say(self, text: str) -> None:
        self.board.say.remote(f"[train] {text}")

    def progress(self, total: int, initial: int) -> Progress:
        return Remote(self.board, total, initial)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self.logger is not None:
            self.logger.log(step, metrics)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        if self.logger is not None:
            self.logger.picture(step, name, image)

    def report(self, metrics: dict[str, float]) -> None:
        # Without Ray's own checkpoints: the loop writes and finds its own, in the one format that runs with and
        # without Ray share, and prunes them, while Ray refuses a run of which an old checkpoint is gone.
        ray.train.report(metrics)


def _worker(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())
    hooks = RayHooks(config["board"], RunLogger(config["tracked"]) if worker.leads else None)
    train(config["job"], worker, hooks)


def run_training(job: TrainJob, cluster: ClusterConfig, tracked: Tracked) -> None:
    """Train `job` on the cluster's workers, or in this process where `workers` is 0.

    Raises ValueError with the worker's own message where the user can mend the fault. A job is done when Ray says so
    and the final weights are there.
    """
    storage, name = os.path.split(job.run)
    with connect(cluster), shown("training") as board:
        require_reachable({"storage.root": job.run, "tracking.uri": tracked.uri, "the shards in": job.shards})
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "tracked": tracked, "board": board},
            scaling_config=ScalingConfig(num_workers=cluster.workers, use_gpu=cluster.use_gpu),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=cluster.max_failures),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            if (message := _mendable(error)) is not None:
                raise ValueError(message) from None
            raise
    if not is_complete(Store(job.run) / "final"):
        raise RuntimeError(f"the training ended, but {job.run}/final is not a finished checkpoint")


def _mendable(error: TrainingFailedError) -> str | None:
    for cause in getattr(error, "worker_failures", {}).values():
        while cause is not None:
            if isinstance(cause, ValueError):
                return str(cause)
            cause = cause.__cause__ or getattr(cause, "cause", None)
    return None
