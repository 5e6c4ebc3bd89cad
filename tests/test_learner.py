"""One optimiser step: what is reduced over the ranks, in which precision, and what the optimiser is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from scadm.config import Precision
from scadm.data.loader import Loader
from scadm.data.order import rank_positions, sample_at
from scadm.data.shards import ShardReader
from scadm.files.checkpoint import complete_steps
from scadm.files.store import Store
from scadm.training.job import TrainJob, Worker
from scadm.training.journal import Journal
from scadm.training.learner import Learner
from scadm.training.loop import train

ALONE = Worker(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and autoencoder that all jobs read; a run folder is each test's own."""
    made = tmp_path_factory.mktemp("learner")
    tiny.training_job(made)
    return made


def job_with(folder: Path, run: Path, **changes: Any) -> TrainJob:
    return tiny.training_job(folder, run=str(run), training=tiny.TRAINING.model_copy(update=changes))


def batches(job: TrainJob, worker: Worker) -> Loader:
    return Loader(
        ShardReader(job.shards, "train"),
        seed=job.seed,
        batch=job.training.batch_size,
        micro_batch=job.training.micro_batch,
        rank=worker.rank,
        ranks=worker.ranks,
        threads=1,
    )


@contextmanager
def gradients_seen() -> Iterator[list[list[Tensor]]]:
    """The gradients that any optimiser of this process is given meanwhile, of each of its steps."""
    seen: list[list[Tensor]] = []

    def look(optimiser: Optimizer, *_: Any) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        seen.append([p.grad.clone() for p in parameters if p.grad is not None])

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


# --- several ranks --------------------------------------------------------------------------------------


def _counts_reductions(worker: Worker, job: TrainJob) -> None:
    learner = Learner(job, worker, None, 0, print)
    assert isinstance(learner.module, DistributedDataParallel)
    reduced: list[int] = []

    def reduce(ranks: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore
        reduced.append(bucket.index())
        return allreduce_hook(ranks, bucket)

    learner.module.register_comm_hook(dist.group.WORLD, reduce)
    for step, parts in batches(job, worker).steps(0, 3):
        assert len(parts) == 3
        learner.learn(step, parts)
        assert reduced.count(0) == step + 1, "each bucket is reduced once in each step"


def test_gradients_are_reduced_once_a_step_however_many_micro_batches_it_has(folder: Path, tmp_path: Path) -> None:
    run_ranks(2, tmp_path, _counts_reductions, job_with(folder, tmp_path / "run", batch_size=6, micro_batch=1))


def _is_refused(worker: Worker, job: TrainJob, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(job, worker, tiny.Recorder())


def test_every_rank_names_the_sample_of_another_one_whose_loss_is_not_finite(folder: Path, tmp_path: Path) -> None:
    job = job_with(folder, tmp_path / "run")
    samples = tiny.samples(11)
    position = rank_positions(1, job.training.batch_size, rank=1, ranks=2)[-1]  # of the second step
    bad = sample_at(position, job.seed, len(samples))
    samples[bad] = samples[bad]._replace(latent=np.full_like(samples[bad].latent, np.nan))
    shards = tiny.write_shards(tmp_path / "shards", {"train": samples, "validation": tiny.samples(5, seed=1)})
    message = rf"^step 2: the gradient's norm is nan, .* loss of sample\(s\) {samples[bad].id} \(nan\) is not finite\. "
    run_ranks(2, tmp_path, _is_refused, replace(job, shards=str(shards)), message)
    assert complete_steps(Store(job.run)) == []


# --- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "computed"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_layers_compute_in_the_precision_asked_for_and_learn_in_float32(
    folder: Path, tmp_path: Path, precision: Precision, computed: torch.dtype
) -> None:
    job = job_with(folder, tmp_path / "run", precision=precision)
    learner = Learner(job, ALONE, None, 0, print)
    outputs: dict[str, torch.dtype] = {}

    def look_at(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda module, given, output: outputs.update({name: output.dtype}))

    for name, module in learner.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            look_at(name, module)
    step, parts = next(batches(job, ALONE).steps(0, 1))
    with gradients_seen() as seen:
        learnt = learner.learn(step, parts)
    assert len(outputs) > 20 and set(outputs.values()) == {computed}, outputs
    (gradients,) = seen
    assert len(gradients) == len(learner.trainable)
    moments = [value for state in learner.state.optimiser.state.values() for value in state.values()]
    kept = [*gradients, *learner.trainable, *learner.state.average.values(), *moments, learnt.loss]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


# --- clipping -------------------------------------------------------------------------------------------


def test_the_optimiser_is_given_clipped_gradients_and_the_norm_before_is_logged(folder: Path, tmp_path: Path) -> None:
    norms = []
    for clip_norm in (1e6, 1e-3):
        job = job_with(folder, tmp_path / f"{clip_norm}", clip_norm=clip_norm, steps=1)
        with gradients_seen() as seen:
            train(job, ALONE, tiny.Recorder())
        (gradients,) = seen
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        (logged,) = (row["train/grad_norm"] for row in Journal(Store(job.run)).rows if "train/grad_norm" in row)
        assert logged == pytest.approx(norms[0], rel=1e-4), "the first one is not clipped"
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)
