"""The training loop. One process or several (torch.distributed), on one machine or many; it knows neither.

Running the same job again resumes it: from the newest complete checkpoint of its run folder, at any number of ranks
that divides the batch. Nothing is kept beside weights, optimiser and step (see `data.order` and `diffusion.noise`).
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from filelock import FileLock, Timeout
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
from scadm.data.loader import Loader
from scadm.data.shards import ShardReader
from scadm.diffusion.noise import DROPOUT, generator
from scadm.models.scadm import SCADM
from scadm.precision import channels_last, mixed_precision
from scadm.training import ema
from scadm.training.hooks import Hooks
from scadm.training.job import TrainJob, Worker
from scadm.training.journal import Journal
from scadm.training.objective import TrainingModule, device_batch, draw
from scadm.training.parallel import agreed, worker_mean
from scadm.training.rate import rate
from scadm.training.samples import sample_grid
from scadm.training.state import GROUPS, TrainState
from scadm.training.validation import Validation
from scadm.weights import load_state

FINISHED = -1


def train(job: TrainJob, worker: Worker, hooks: Hooks) -> None:
    """Train to the last step and write `<run>/final/`. A run that has it already is left as it is."""
    run = Store(job.run)
    with _writer(job.run) if worker.leads else nullcontext():
        # Asked by rank 0 while it holds the lock, so that all ranks go on from the same step.
        first = agreed(_newest_step(run) if worker.leads else 0, worker)
        if first != FINISHED:
            _train(job, worker, hooks, run, first)


def _newest_step(run: Store) -> int:
    """Step of the newest finished checkpoint, 0 without one, FINISHED with final weights."""
    if is_complete(run / "final"):
        return FINISHED
    return max(complete_steps(run), default=0)


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


def _train(job: TrainJob, worker: Worker, hooks: Hooks, run: Store, first: int) -> None:
    config, device = job.training, worker.device
    torch.manual_seed(job.seed)  # the initial weights, equal on all ranks
    model = SCADM(job.model, job.latent_channels)
    if job.initial is not None and first == 0:
        tensors, _ = read_checkpoint(Store(job.initial), ["weights"])
        load_state(model, tensors["weights"], job.initial)
    channels_last(model.to(device))
    model.unet.gradient_checkpointing = job.gradient_checkpointing
    module = TrainingModule(model, job.diffusion).to(device)
    trainable = [p for p in model.parameters() if p.requires_grad]
    state = TrainState(
        model=model,
        average={name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        optimiser=torch.optim.AdamW(
            trainable, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        ),
        step=0,
    )
    if first > 0:
        newest = run / "checkpoints" / checkpoint_name(first)
        tensors, _ = read_checkpoint(newest, GROUPS)
        state.restore(tensors, first, newest.root)
        if worker.leads:
            hooks.say(f"resuming from step {first} of {config.steps}, checkpoint {newest.root}")
    if job.compile:
        module.compile()
    ddp = DistributedDataParallel(module, forward_sync_buffers=False) if worker.ranks > 1 else module

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

    def finish(step: int) -> None:
        write_checkpoint(run / "final", {"weights": state.average}, job.checkpoint_config(step))

    if config.steps == 0:  # the initial weights as they are
        log(0, validation.losses(state.average, autocast))
        if worker.leads:
            finish(0)
        hooks.report({"step": 0.0})

    losses: list[Tensor] = []
    since, since_step = time.perf_counter(), state.step
    for step, parts in loader.steps(state.step, config.steps):
        for group in state.optimiser.param_groups:
            group["lr"] = config.learning_rate * rate(step, config.steps, config.warmup_steps, config.decay)
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
                    # DDP takes the mean of the ranks' gradients: with this weight, that of all images of the batch,
                    # however many of them each rank has.
                    losses_of_part = ddp(job.scale.to_model(latent), image, labels, draws)
                    part_loss = losses_of_part.sum() * (worker.ranks / config.batch_size)
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
            speed = (done - since_step) * config.batch_size / (time.perf_counter() - since)
            log(
                done,
                {
                    "train/loss": mean,
                    "train/lr": group["lr"],
                    "train/images_per_s": speed,
                    "train/grad_norm": norm.item(),
                },
            )
            if bar is not None:
                bar.set_postfix_str(f"loss {mean:.3f}, {speed:.0f} images/s")
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
                    finish(done)
                prune(run, job.monitoring.keep_checkpoints)
                assert journal is not None
                journal.flush()
            hooks.report({"step": float(done), "loss": loss.item()})
            since, since_step = time.perf_counter(), done
    if bar is not None:
        bar.close()
