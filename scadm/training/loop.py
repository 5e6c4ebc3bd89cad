"""The training loop. One process or several (torch.distributed), on one machine or many; it knows neither.

Running the same job again resumes it: from the newest complete checkpoint of its run folder, at any number of ranks
that divides the batch. Nothing is kept beside weights, optimiser and step (see `data.order` and `diffusion.noise`).
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scadm.checkpoint import (
    Store,
    checkpoint_name,
    complete_steps,
    is_complete,
    prune,
    read_checkpoint,
    write_checkpoint,
)
from scadm.config import DiffusionConfig, ModelConfig, MonitoringConfig, SamplingConfig, TrainingConfig
from scadm.data.loader import Batch, Loader, collate
from scadm.data.shards import ShardReader
from scadm.diffusion.noise import DROPOUT, VALIDATION, generator, normal
from scadm.first_stage import LatentScale, load_first_stage
from scadm.models.scadm import SCADM
from scadm.synthesis import Synthesiser
from scadm.training import ema
from scadm.training.journal import Journal
from scadm.training.objective import Draws, TrainingModule, device_batch, draw
from scadm.training.samples import sample_grid
from scadm.training.state import GROUPS, TrainState


@dataclass(frozen=True)
class TrainJob:
    """Everything that a worker needs to know; it travels by pickle."""

    run: str
    """Path or URI of the run's folder."""
    shards: str
    autoencoder: str
    """Folder of the first stage, for the sample grids."""
    autoencoder_fingerprint: str
    resolution: int
    latent_channels: int
    scale: LatentScale
    seed: int
    model: ModelConfig
    diffusion: DiffusionConfig
    training: TrainingConfig
    monitoring: MonitoringConfig
    sampling: SamplingConfig
    loader_threads: int

    def checkpoint_config(self, step: int) -> dict[str, Any]:
        """What a checkpoint must hold besides weights, so that it can be loaded without flags."""
        return {
            "model": self.model.model_dump(mode="json"),
            "diffusion": self.diffusion.model_dump(mode="json"),
            "latent_channels": self.latent_channels,
            "latent_mean": list(self.scale.mean),
            "latent_std": list(self.scale.std),
            "resolution": self.resolution,
            "autoencoder": self.autoencoder_fingerprint,
            "step": step,
        }


@dataclass(frozen=True)
class Worker:
    rank: int
    ranks: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0


class Progress(Protocol):
    def update(self, n: float = 1) -> Any: ...

    def set_postfix_str(self, s: str) -> None: ...

    def close(self) -> None: ...


class Hooks(Protocol):
    """What a run tells the outside. Only `report` is called on every rank, at the same steps."""

    def say(self, text: str) -> None: ...

    def progress(self, total: int, initial: int) -> Progress: ...

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None: ...

    def report(self, metrics: dict[str, float]) -> None: ...


def train(job: TrainJob, worker: Worker, hooks: Hooks) -> None:
    """Train to the last step and write `<run>/final/`. A run that has it already is left as it is."""
    run = Store(job.run)
    if is_complete(run / "final"):
        return
    with _writer(job.run) if worker.leads else nullcontext():
        _train(job, worker, hooks, run)


@contextmanager
def _writer(run: str) -> Iterator[None]:
    """One writer for a run at a time: a lock that ends with the process that holds it."""
    if "://" in run:
        yield
        return
    Path(run).mkdir(parents=True, exist_ok=True)
    try:
        # A killed run's last process may need a moment to go.
        with FileLock(f"{run}/writer.lock", timeout=60):
            yield
    except Timeout:
        raise ValueError(
            f"another process is training {run}. Wait for it, or end it; running again then resumes."
        ) from None


def _train(job: TrainJob, worker: Worker, hooks: Hooks, run: Store) -> None:
    config, device = job.training, worker.device
    torch.manual_seed(job.seed)  # the initial weights, equal on all ranks
    model = SCADM(job.model, job.latent_channels).to(device)
    module = TrainingModule(model, job.diffusion).to(device)
    trainable = [p for p in model.parameters() if p.requires_grad]
    state = TrainState(
        model=model,
        average={name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        optimiser=torch.optim.AdamW(
            trainable, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        ),
        step=0,
    )
    if steps := complete_steps(run):
        newest = run / "checkpoints" / checkpoint_name(steps[-1])
        tensors, _ = read_checkpoint(newest, GROUPS)
        state.restore(tensors, steps[-1], newest.root)
        if worker.leads:
            hooks.say(f"resuming from step {steps[-1]} of {config.steps}, checkpoint {newest.root}")
    ddp = DistributedDataParallel(module, broadcast_buffers=False) if worker.ranks > 1 else module

    reader = ShardReader(job.shards, "train")
    validation = Validation(job, worker)
    loader = Loader(
        reader,
        seed=job.seed,
        batch=config.batch_size,
        micro_batch=config.micro_batch,
        rank=worker.rank,
        ranks=worker.ranks,
        threads=job.loader_threads,
    )
    autocast = mixed_precision(config.precision, device)
    journal = Journal(run) if worker.leads else None
    bar = hooks.progress(config.steps, state.step) if worker.leads else None

    def log(step: int, metrics: dict[str, float]) -> None:
        if journal is not None and (new := journal.add(step, metrics)):
            hooks.log(step, new)

    losses: list[Tensor] = []
    since, since_step = time.perf_counter(), state.step
    for step, parts in loader.steps(state.step, config.steps):
        for group in state.optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
        loss = torch.zeros((), device=device)
        for i, part in enumerate(parts):
            last = i + 1 == len(parts)
            skip_reduce = nullcontext() if last or not isinstance(ddp, DistributedDataParallel) else ddp.no_sync()
            with skip_reduce:  # gradients of a step are reduced once, with its last micro-batch
                latent, image, labels = device_batch(part, device)
                draws = draw(job.seed, part.positions, tuple(latent.shape[1:]), job.diffusion).to(device)
                # Dropout is torch's own affair: reseeded, a resumed run draws what the other would have drawn.
                torch.manual_seed(int(generator(job.seed, DROPOUT, part.positions[0]).integers(2**63)))
                with autocast():
                    part_loss = ddp(job.scale.to_model(latent), image, labels, draws).mean() / len(parts)
                part_loss.backward()
            loss += part_loss.detach()
        norm = nn.utils.clip_grad_norm_(trainable, config.clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            ids = [name for part in parts for name in part.ids]
            raise ValueError(
                f"step {step + 1}: loss {loss.item()}, gradient norm {norm.item()}, expected finite numbers. The "
                f"samples of rank {worker.rank} were {ids}. Lower training.learning_rate (it is "
                f"{config.learning_rate}) or training.clip_norm, or use training.precision fp32; the last checkpoint "
                "is kept."
            )
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        state.step = done = step + 1
        ema.update(state.average, model, done, config.ema_decay)
        losses.append(loss)
        if bar is not None:
            bar.update(1)

        final = done == config.steps
        if done % job.monitoring.log_every == 0 or final:
            mean = worker_mean(torch.stack(losses).mean(), worker)
            rate = (done - since_step) * config.batch_size / (time.perf_counter() - since)
            log(
                done,
                {
                    "train/loss": mean,
                    "train/lr": group["lr"],
                    "train/images_per_s": rate,
                    "train/grad_norm": norm.item(),
                },
            )
            if bar is not None:
                bar.set_postfix_str(f"loss {mean:.3f}, {rate:.0f} images/s")
            losses.clear()
            since, since_step = time.perf_counter(), done
        if done % job.monitoring.validate_every == 0 or final:
            log(done, validation.losses(state.average, autocast))
            since, since_step = time.perf_counter(), done
        if worker.leads and (done % job.monitoring.sample_every == 0 or final):
            hooks.picture(done, "samples", sample_grid(validation.synthesiser(state.average), validation.shown))
            since, since_step = time.perf_counter(), done
        if done % job.monitoring.checkpoint_every == 0 or final:
            folder = run / "checkpoints" / checkpoint_name(done)
            if worker.leads:
                write_checkpoint(folder, state.tensors(), job.checkpoint_config(done))
                if final:
                    write_checkpoint(run / "final", {"weights": state.average}, job.checkpoint_config(done))
                prune(run, job.monitoring.keep_checkpoints)
                assert journal is not None
                journal.flush()
            hooks.report({"step": float(done), "loss": loss.item()})
            since, since_step = time.perf_counter(), done
    if bar is not None:
        bar.close()


class Validation:
    """The averaged weights on the first validation samples, at fixed noise and timesteps that cover 0 .. T - 1."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self.job, self.worker = job, worker
        reader = ShardReader(job.shards, "validation")
        count = min(job.monitoring.validation_samples, len(reader))
        self.count = count
        mine = list(range(worker.rank, count, worker.ranks))
        size = job.training.micro_batch
        self.batches: list[Batch] = [
            collate(part, [reader[i] for i in part], [False] * len(part))
            for part in (mine[i : i + size] for i in range(0, len(mine), size))
        ]
        self.shown = collate(range(min(6, count)), [reader[i] for i in range(min(6, count))], [False] * min(6, count))
        self.model = SCADM(job.model, job.latent_channels).to(worker.device).eval().requires_grad_(False)
        self.module = TrainingModule(self.model, job.diffusion).to(worker.device)

    def draws(self, batch: Batch) -> Draws:
        steps = self.job.diffusion.timesteps
        t = torch.tensor([int((i + 0.5) * steps / self.count) for i in batch.positions])
        kept = torch.zeros(len(t), dtype=torch.bool)
        return Draws(t, normal(self.job.seed, VALIDATION, batch.positions, tuple(batch.latent.shape[1:])), kept, kept)

    @torch.no_grad()
    def losses(
        self, average: dict[str, Tensor], autocast: Callable[[], AbstractContextManager[Any]]
    ) -> dict[str, float]:
        """Mean loss over all ranks' samples, with both conditions present."""
        self.model.load_state_dict(average)
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.batches:
            latent, image, labels = device_batch(batch, self.worker.device)
            with autocast():
                losses = self.module(
                    self.job.scale.to_model(latent), image, labels, self.draws(batch).to(self.worker.device)
                )
            total += losses.double().sum().cpu()
        return {"validation/loss": worker_mean(total, self.worker) * self.worker.ranks / self.count}

    def synthesiser(self, average: dict[str, Tensor]) -> Synthesiser:
        self.model.load_state_dict(average)
        return Synthesiser(
            model=self.model,
            first_stage=load_first_stage(Path(self.job.autoencoder), self.worker.device).model,
            scale=self.job.scale,
            diffusion=self.job.diffusion,
            sampling=self.job.sampling,
            resolution=self.job.resolution,
            device=self.worker.device,
        )


def worker_mean(value: Tensor, worker: Worker) -> float:
    """Mean of a scalar over the ranks; called on all of them."""
    if worker.ranks > 1:
        value = value.detach().clone().to(worker.device)
        dist.all_reduce(value)
        value /= worker.ranks
    return value.item()


def computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def mixed_precision(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A factory of autocast contexts for training.precision; `auto` is bf16 where the hardware computes in it."""
    if precision == "bf16" or (precision == "auto" and computes_in_bf16(device)):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext
