"""Train without Ray and MLflow: one process, or as many as torchrun starts.

Parameters come from params.yaml, data from the outs that `dvc repro latents` has made; the run folder is written as
Ray's workers would write it, and read by them: either can resume what the other began.
"""

import argparse
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image

from scadm.config import load_params
from scadm.files.checkpoint import digest_of, is_complete
from scadm.files.manifest import Manifest
from scadm.files.store import Store
from scadm.progress import bar
from scadm.stopping import Stop, Stopped, stopping
from scadm.training.hooks import Progress, Wish
from scadm.training.job import TrainJob, Worker
from scadm.training.journal import Row
from scadm.training.lease import Lease, Taken
from scadm.training.loop import train
from scadm.training.same import require_same_training
from scadm.training.saver import FINAL

_EXAMPLES = """examples:
  python -m scadm.training storage/runs/alone
  torchrun --nproc-per-node 8 -m scadm.training storage/runs/alone"""


class TerminalHooks:
    """The loop's hooks for one terminal; sample grids go to `<run>/samples/`, metrics are in `<run>/metrics.jsonl`."""

    def __init__(self, run: Path, stop: Stop) -> None:
        self.run, self.stop = run, stop

    def say(self, text: str) -> None:
        print(f"[train] {text}", flush=True)

    def progress(self, total: int, initial: int) -> Progress:
        return bar(total, "training", "steps", initial)

    def log(self, row: Row) -> None:
        pass

    def catch_up(self, rows: list[Row]) -> None:
        pass

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        folder = self.run / name
        try:
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"{step:08d}.webp", quality=90)
        except OSError as error:  # a full disk: the training goes on
            self.say(f"warning: a picture of step {step} could not be written ({error}).")

    def report(self, metrics: dict[str, float]) -> None:
        pass

    def wish(self) -> Wish:
        return Wish.STOP if self.stop.asked.is_set() else Wish.NOTHING

    def losing_machine(self) -> bool:
        return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m scadm.training",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of the run; a run that is there is resumed")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="default: %(default)s")
    parser.add_argument(
        "--autoencoder", type=Path, default=Path("models/autoencoder"), help="for the pictures; default: %(default)s"
    )
    parser.add_argument("--initial", type=Path, help="folder of a checkpoint to start from")
    return parser.parse_args()


def _worker(use_gpu: bool) -> Worker:
    """As torchrun's environment says, or alone."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if use_gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if ranks > 1:
        dist.init_process_group("nccl" if use_gpu else "gloo", timeout=timedelta(minutes=30))
    return Worker(rank, ranks, device)


def main() -> None:
    """Train, or go on; what the user can mend ends in one message and exit status 1."""
    given = _arguments()
    try:
        params = load_params(given.params)
        if params.training.init_from is not None and given.initial is None:
            raise ValueError(
                f"training.init_from is {params.training.init_from!r}, which is looked up by `dvc repro`. Give its "
                "checkpoint's folder here: --initial storage/initial/KEY."
            )
        data = Manifest.read(given.shards)
        job = TrainJob.of(
            params,
            data,
            run=str(given.run.resolve()),
            shards=str(given.shards.resolve()),
            autoencoder=str(given.autoencoder.resolve()),
            initial=None if given.initial is None else str(given.initial.resolve()),
        )
        worker = _worker(params.cluster.use_gpu)
        with stopping(lambda text: print(f"[train] {text}", flush=True) if worker.leads else None) as stop:
            hooks = TerminalHooks(given.run.resolve(), stop)
            if worker.leads:
                with Lease(Store(job.run)) as lease:
                    initial = None if job.initial is None else digest_of(Store(job.initial))
                    require_same_training(Path(job.run), params, data, initial)
                    if is_complete(Store(job.run) / FINAL):
                        hooks.say(f"{job.run} is finished")
                    train(replace(job, lease=lease.token), worker, hooks)
            else:
                train(job, worker, hooks)
            stop.require_end()
            if worker.leads:
                hooks.say(f"the weights are in {job.run}/{FINAL}")
    except Taken as taken:
        raise SystemExit(f"error: {taken.holder} trains {given.run} already. Wait for it, or end it.") from None
    except Stopped as stopped:  # its checkpoint is written, or a second signal came
        raise SystemExit(stopped.status) from None
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
