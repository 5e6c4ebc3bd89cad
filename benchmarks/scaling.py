"""What several workers, Ray, tracking and checkpoints cost a training, against trainers that have none of them.

    python -m benchmarks.scaling              # after `make run` or `dvc repro latents`
    python -m benchmarks.scaling --rounds 3 --workers 2    # without the setting of one worker

Three ways of training the model of params.yaml on two cores, which take turns in an order that changes each round:

bare       the ceiling: as many trainers as workers, each a process with one thread that knows nothing of the others,
           with its part of the batch; `python -m scadm.training`, no checkpoint within the measured steps. Their rates
           add up.
torchrun   ranks that share the batch by DistributedDataParallel, without Ray, tracking and checkpoints.
pipeline   Ray Train workers with MLflow, metrics of the machine, and checkpoints as often as the quickstart's.

Two workers with the quickstart's batch, whose step takes little more than 0.1 s; with a larger one, whose step takes a
second, so that what a step costs besides its images, such as the exchange of gradients, weighs less; and one worker,
which leaves a core to the processes of Ray and MLflow, as every machine with a GPU does.

A rate is images by seconds between two lines of the run's journal, so checkpoints that it waits for count. Of each
ratio the median over the rounds is given, with a bootstrap interval of 95 %. The result is kept in
benchmarks/scaling.json and .md, which are written after each round: Ctrl-C keeps those before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks import machine
from scadm import tracking
from scadm.cluster.train import run_training
from scadm.config import load_params
from scadm.files.manifest import Manifest, write_atomically, write_json
from scadm.files.store import Store
from scadm.progress import bar
from scadm.training import journal
from scadm.training.job import TrainJob

ROOT = Path(__file__).resolve().parent.parent
FROM, TO = 320, 960
"""Images of a training between which it is measured: what is slow at first comes before."""
CHECKPOINT_EVERY = 800  # images
LARGE = 64  # images of the larger batch
NEVER = 10**6


@dataclass(frozen=True)
class Setting:
    workers: int
    batch: int  # images of all workers together

    def __str__(self) -> str:
        return f"{self.workers} x {self.batch // self.workers}"

    @property
    def ways(self) -> list[str]:
        return [way for way in WAYS if way != "torchrun" or self.workers > 1]


def params_file(folder: Path, batch: int, *, workers: int, checkpoints: bool, share: int = 1) -> Path:
    """The project's parameters with those that the benchmark sets; a training has one of `share` parts of a batch."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["training"] |= {"steps": TO // batch + 1, "batch_size": batch // share}
    tree["monitoring"] |= {
        "log_every": FROM // batch,
        "validate_every": NEVER,
        "sample_every": NEVER,
        "validation_samples": 4,
        "checkpoint_every": CHECKPOINT_EVERY // batch if checkpoints else NEVER,
    }
    tree["cluster"] |= {"address": None, "workers": workers, "use_gpu": False}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def rate(run: Path, batch: int, share: int = 1) -> float:
    """Images per second of a run, by the times in its journal."""
    times = {int(row["step"]): row["time"] for row in journal.read(Store(str(run))) if "train/loss" in row}
    return (TO - FROM) / share / (times[TO // batch] - times[FROM // batch]) * 1000


def finish(*processes: "subprocess.Popen[bytes]") -> None:
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode != 0:
            raise RuntimeError(f"a training ended with {process.returncode}:\n{output.decode()[-3000:]}")


def start(*arguments: str, threads: int | None = 1) -> "subprocess.Popen[bytes]":
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def bare(folder: Path, setting: Setting) -> float:
    params = params_file(folder, setting.batch, workers=1, checkpoints=False, share=setting.workers)
    runs = [folder / f"run{number}" for number in range(setting.workers)]
    finish(*(start("-m", "scadm.training", str(run), "--params", str(params)) for run in runs))
    return sum(rate(run, setting.batch, setting.workers) for run in runs)


def torchrun(folder: Path, setting: Setting) -> float:
    params = params_file(folder, setting.batch, workers=setting.workers, checkpoints=False)
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={setting.workers}")
    finish(start(*launch, "-m", "scadm.training", str(folder / "run"), "--params", str(params)))
    return rate(folder / "run", setting.batch)


def pipeline(folder: Path, setting: Setting) -> float:
    params = params_file(folder, setting.batch, workers=setting.workers, checkpoints=True)
    finish(start("-m", "benchmarks.scaling", "--train", str(folder / "run"), "--params", str(params), threads=None))
    return rate(folder / "run", setting.batch)


def train(run: Path, params_path: Path) -> None:
    """One training as the stage does it, into a run folder and an MLflow store of its own."""
    params, shards = load_params(params_path), ROOT / "data/shards"
    data = Manifest.read(shards)
    autoencoder = str(ROOT / "models/autoencoder")
    job = TrainJob.of(params, data, run=str(run), shards=str(shards), autoencoder=autoencoder, initial=None)
    tree = params.model_dump(mode="json")
    opening = partial(tracking.open_run, params.tracking, run.parent, "k", name="k", params=tree, tags={}, dataset=None)
    run_training(job, params.cluster, opening, params.tracking.machine_metrics_s)


WAYS: dict[str, Callable[[Path, Setting], float]] = {"bare": bare, "torchrun": torchrun, "pipeline": pipeline}
RATIOS = (("torchrun", "bare"), ("pipeline", "bare"), ("pipeline", "torchrun"))


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median over the rounds, and 95 % of what it is when rounds are drawn again."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


Rates = dict[Setting, dict[str, list[float]]]
"""Images per second by setting and way, one for each round."""


def describe(rates: Rates) -> str:
    rounds, cpu = len(next(iter(rates.values()))["bare"]), machine.describe(torch.device("cpu"))
    lines = [
        f"On {cpu}; {rounds} rounds that take turns, images {FROM} to {TO} of trainings of the quickstart's model, by "
        "workers x images of each in a step. Written by `python -m benchmarks.scaling`.",
        "",
        "| setting | way | images/s, median | from | to |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for setting, ways in rates.items():
        for way, r in ways.items():
            lines.append(f"| {setting} | {way} | {np.median(r):.1f} | {min(r):.1f} | {max(r):.1f} |")
    lines += ["", "| setting | ratio, by round | median | 95 % |", "| --- | --- | ---: | ---: |"]
    for setting, ways in rates.items():
        for above, below in RATIOS:
            if above in ways and below in ways:
                median, low, high = interval([a / b for a, b in zip(ways[above], ways[below], strict=True)])
                lines.append(f"| {setting} | {above} / {below} | {median:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the tables; or train once, for the way `pipeline`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 1], help="settings with so many workers")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--params", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train is not None:
        train(given.train, given.params)
        return
    Manifest.read(ROOT / "data/shards")
    batch = load_params(ROOT / "params.yaml").training.batch_size
    settings = [
        setting
        for setting in (Setting(2, batch), Setting(2, LARGE), Setting(1, batch))
        if setting.workers in given.workers
    ]
    rates: Rates = {setting: {way: [] for way in setting.ways} for setting in settings}
    with bar(given.rounds * sum(len(setting.ways) for setting in settings), "scaling", "trainings") as progress:
        for number in range(given.rounds):
            for setting in settings:
                first = number % len(setting.ways)
                for way in setting.ways[first:] + setting.ways[:first]:
                    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
                        measured = WAYS[way](Path(folder), setting)
                    rates[setting][way].append(measured)
                    progress.set_postfix_str(f"{setting}, {way} {measured:.1f} images/s", refresh=False)
                    progress.update(1)
            write_json(ROOT / "benchmarks/scaling.json", {str(setting): ways for setting, ways in rates.items()})
            write_atomically(ROOT / "benchmarks/scaling.md", describe(rates))
    print(describe(rates))


if __name__ == "__main__":
    main()
