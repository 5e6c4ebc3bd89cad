"""The training loop. One process or several (torch.distributed), on one machine or many; it knows neither.

Running the same job again resumes it: from the newest complete checkpoint of its run folder, at any number of ranks up
to the images of a batch. Nothing is kept beside weights, optimiser and step (see `data.order` and `diffusion.noise`).
"""

import time
from contextlib import closing, nullcontext

from torch import Tensor

from scadm.data.loader import Loader
from scadm.data.shards import ShardReader
from scadm.files.checkpoint import checkpoint_name, complete_steps, is_complete, read_config
from scadm.files.patience import patiently
from scadm.files.store import Store
from scadm.training import lease
from scadm.training.hooks import Hooks, Wish
from scadm.training.job import TrainJob, Worker
from scadm.training.journal import Journal
from scadm.training.learner import Learner
from scadm.training.parallel import agreed, greatest
from scadm.training.samples import sample_grid
from scadm.training.saver import FINAL, Saver
from scadm.training.validation import Validation
from scadm.training.window import Window

FINISHED = -1


def _unheard(_: str) -> None: ...


def train(job: TrainJob, worker: Worker, hooks: Hooks) -> None:
    """Train to the last step and write `<run>/final/`, or to where the outside wishes it to stop.

    A run that has final weights already is left as it is.
    """
    run = Store(job.run)
    # Asked by rank 0 alone, so that all ranks go on from the same step.
    first = agreed(patiently(run, lambda: _newest_step(run), hooks.say) if worker.leads else 0, worker)
    if first != FINISHED:
        saver = patiently(run, lambda: _saver(job, run, hooks), hooks.say) if worker.leads else None
        with nullcontext() if saver is None else closing(saver):
            _train(job, worker, hooks, run, first, saver)


def _newest_step(run: Store) -> int:
    """Step of the newest finished checkpoint, 0 without one, FINISHED with final weights."""
    if is_complete(run / FINAL):
        return FINISHED
    return max(complete_steps(run), default=0)


def _saver(job: TrainJob, run: Store, hooks: Hooks) -> Saver:
    return Saver(
        run,
        Journal(run),
        keep=job.monitoring.keep_checkpoints,
        most_failures=job.monitoring.failed_checkpoints,
        require=lambda: lease.require(run, job.lease),
        say=hooks.say,
    )


def _train(job: TrainJob, worker: Worker, hooks: Hooks, run: Store, first: int, saver: Saver | None) -> None:
    """`saver` is rank 0's, and None on the others."""
    config, monitoring = job.training, job.monitoring
    newest = run / "checkpoints" / checkpoint_name(first) if first > 0 else None
    say = hooks.say if worker.leads else _unheard  # one of the ranks tells of a store that is away
    learner = Learner(job, worker, newest, first, say)
    average = learner.state.average
    if saver is not None:
        hooks.catch_up(saver.journal.rows)
        if newest is not None:
            hooks.say(f"resuming from step {first} of {config.steps}, checkpoint {newest.root}")
    validation = Validation(job, worker, say)
    loader = Loader(
        ShardReader(job.shards, "train", say=say),
        seed=job.seed,
        batch=config.batch_size,
        micro_batch=config.micro_batch,
        rank=worker.rank,
        ranks=worker.ranks,
        threads=job.loader_threads,
    )
    bar = hooks.progress(config.steps, first) if saver is not None else None

    def log(step: int, metrics: dict[str, float]) -> None:
        if saver is not None and (row := saver.journal.add(step, metrics)) is not None:
            hooks.log(row)

    def validate(step: int) -> None:
        metrics = validation.losses(average, learner.autocast)
        log(step, metrics)
        if saver is not None:
            saver.best(metrics["validation/loss"], average, job.checkpoint_config(step))

    def checkpoint(step: int, *, last: bool) -> None:
        window.add_all(losses, worker)
        losses.clear()
        if saver is not None:
            config = job.checkpoint_config(step) | {"window": window.as_json()}
            write = saver.last_checkpoint if last else saver.checkpoint
            write(step, learner.state.tensors(), config)

    def finish(step: int) -> None:
        if saver is not None:
            saver.final(average, job.checkpoint_config(step))

    if first == config.steps:  # ended between its last checkpoint and its final weights, or no steps were asked for
        validate(first)
        finish(first)
        hooks.report({"step": float(first)})

    losses: list[Tensor] = []
    window = (
        Window() if newest is None else Window(*patiently(newest, lambda: read_config(newest), hooks.say)["window"])
    )
    since, since_step = time.perf_counter(), first
    for step, parts in loader.steps(first, config.steps):
        learnt = learner.learn(step, parts)
        losses.append(learnt.loss)
        done = step + 1
        if bar is not None:
            bar.update(1)

        final = done == config.steps
        wish = Wish(greatest(hooks.wish(), worker))
        asked = wish is Wish.STOP or (wish is Wish.LOOK and hooks.losing_machine())
        if done % monitoring.log_every == 0 or final:
            window.add_all(losses, worker)
            losses.clear()
            mean = window.mean()
            window = Window()
            speed = (done - since_step) * config.batch_size / (time.perf_counter() - since)
            metrics = {
                "train/loss": mean,
                "train/lr": learnt.rate,
                "train/images_per_s": speed,
                "train/grad_norm": learnt.norm,
            }
            failed = 0 if saver is None else saver.failed
            log(done, metrics | ({"train/failed_checkpoints": float(failed)} if failed else {}))
            if bar is not None:
                failures = f", {failed} checkpoints failed" if failed else ""
                bar.set_postfix_str(f"loss {mean:.3f}, {speed:.0f} images/s{failures}")
            since, since_step = time.perf_counter(), done
        if done % monitoring.validate_every == 0 or final:
            validate(done)
            since, since_step = time.perf_counter(), done
        if saver is not None and (done % monitoring.sample_every == 0 or final):
            hooks.picture(done, "samples", sample_grid(validation.synthesiser(average), validation.shown))
            since, since_step = time.perf_counter(), done
        if done % monitoring.checkpoint_every == 0 or final or asked:
            checkpoint(done, last=asked and not final)
            if final:
                finish(done)
            hooks.report({"step": float(done), "loss": learnt.loss.item()})
            since, since_step = time.perf_counter(), done
        if wish is Wish.STOP:
            break
    if bar is not None:
        bar.close()
