"""What a training survives: every victim at every moment, and twenty random kills in one run. `make test-faults`.

Each run must end with the weights of one that nothing disturbed, and leave no process behind.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from projects import Project, kill_group, marked, wait_for
from ray_nodes import Nodes

from scadm.files.checkpoint import complete_steps, digest_of
from scadm.files.manifest import FILE_NAME
from scadm.files.store import Store

pytestmark = pytest.mark.faults

TRAIN = (sys.executable, "-m", "pipeline.train")
WORKER = "ray::RayTrainWorker"
STEPS = 40
SECONDS = 400
"""For a training with all its restarts."""
LINGERING = 120
"""Ray's own agents notice after a minute that their head is gone."""


def sha256(project: Project) -> str:
    return json.loads((project.folder / "models/train.json").read_text())["sha256"]


class Run:
    """A training that is still to be done, in a copy of a finished project."""

    def __init__(self, finished: Project, folder: Path, nodes: Nodes | None = None, **changes: object) -> None:
        self.project, self.nodes = finished.copy(folder / "project"), nodes
        if nodes is not None:
            self.project.variables = nodes.client(self.project)
        key = json.loads((finished.folder / "models/train.json").read_text())["run_key"]
        self.project.run("rm", "models/train.json")
        self.project.set({"cluster.max_failures": 1000, "monitoring.log_every": 1, **changes})
        self.folder, self.logs = self.project.folder / "storage" / "runs" / key, folder
        self.starts = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self, *command: str) -> "subprocess.Popen[str]":
        self.starts += 1
        self.process = self.project.start(*(command or TRAIN), log=self.logs / f"{self.starts}.log")
        return self.process

    @property
    def said(self) -> str:
        return "".join((self.logs / f"{i + 1}.log").read_text() for i in range(self.starts))

    def steps(self) -> list[int]:
        path = self.folder / "metrics.jsonl"
        rows = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.is_file() else []
        return [int(row["step"]) for row in map(json.loads, rows) if "train/loss" in row]

    def step(self) -> int:
        return max(self.steps(), default=0)

    def workers(self) -> list[int]:
        """On this machine, and on the cluster's nodes, which are not children of the run's commands."""
        return sorted([*self.project.processes(WORKER), *(self.nodes.processes(WORKER) if self.nodes else [])])

    def writes(self) -> bool:
        """Whether a checkpoint is being written now."""
        return any(not (path / FILE_NAME).exists() for path in (self.folder / "checkpoints").glob("step-*"))

    def require_end(self) -> None:
        assert self.process is not None
        assert self.process.wait(timeout=SECONDS) == 0, self.said[-5000:]

    def require_same(self, reference: Project) -> None:
        assert sha256(self.project) == sha256(reference)
        steps = self.steps()
        assert steps == sorted(set(steps)), "each step once"


def until(condition: Callable[[], bool], seconds: float, process: "subprocess.Popen[str]") -> None:
    """As `wait_for`, but asked every millisecond, so that what is short is met."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it has ended before the moment came"
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.001)


MOMENTS: dict[str, Callable[[Run], bool]] = {
    "step 0": lambda run: len(run.workers()) == 2,
    "mid-epoch": lambda run: run.step() >= 12,
    "epoch's end": lambda run: run.step() >= 8,  # of 63 faces, by eight
    "checkpoint": lambda run: run.step() >= 10 and run.writes(),
}


@pytest.fixture
def nodes(finished: Project, tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(finished, tmp_path) as started:
        yield started


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker(finished: Project, tmp_path: Path, moment: str) -> None:
    run = Run(finished, tmp_path)
    process = run.start()
    until(lambda: MOMENTS[moment](run), SECONDS, process)
    os.kill(random.Random(moment).choice(run.workers()), signal.SIGKILL)
    run.require_end()
    run.require_same(finished)
    wait_for("the end of all processes", lambda: not run.project.processes(), LINGERING)


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_driver(finished: Project, tmp_path: Path, moment: str) -> None:
    run = Run(finished, tmp_path)
    process = run.start()
    until(lambda: MOMENTS[moment](run), SECONDS, process)
    process.kill()
    process.wait()
    run.start()
    run.require_end()
    run.require_same(finished)
    wait_for("the end of all processes", lambda: not run.project.processes(), LINGERING)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_node(finished: Project, tmp_path: Path, nodes: Nodes, moment: str) -> None:
    run = Run(finished, tmp_path, nodes)
    for _ in range(2):
        nodes.add()
    process = run.start()
    until(lambda: MOMENTS[moment](run), SECONDS, process)
    nodes.kill(nodes.names[0])
    nodes.add()
    run.require_end()
    run.require_same(finished)


def test_a_drained_node_first_leads_to_a_checkpoint(finished: Project, tmp_path: Path, nodes: Nodes) -> None:
    run = Run(finished, tmp_path, nodes, **{"training.steps": 400, "monitoring.checkpoint_every": 1000})
    run.folder = run.folder.parent / "unknown"  # another number of steps is another run
    for _ in range(2):
        nodes.add()
    run.start()
    runs = run.folder.parent
    wait_for("a run", lambda: any(runs.glob("*/metrics.jsonl")), 120)
    (run.folder,) = (path.parent for path in runs.glob("*/metrics.jsonl"))
    wait_for("step 10", lambda: run.step() >= 10, 120)
    nodes.drain(nodes.names[0], seconds=60)
    wait_for("a checkpoint", lambda: bool(complete_steps(Store(str(run.folder)))), 60)
    assert complete_steps(Store(str(run.folder)))[0] % 1000, "written because of the notice"
    nodes.kill(nodes.names[0])
    nodes.add()
    run.require_end()
    assert re.search(r"resuming from step \d+ of 400", run.said)


def test_workers_are_fewer_and_more_as_nodes_go_and_come(finished: Project, tmp_path: Path, nodes: Nodes) -> None:
    run = Run(finished, tmp_path, nodes, **{"training.steps": 700, "cluster.min_workers": 1})
    runs = run.folder.parent
    nodes.add()
    run.start()
    wait_for("a run", lambda: any(runs.glob("*/metrics.jsonl")), 120)
    (run.folder,) = (path.parent for path in runs.glob("*/metrics.jsonl"))
    wait_for("step 10", lambda: run.step() >= 10, 120)
    assert len(run.workers()) == 1
    nodes.add()
    wait_for("a second worker", lambda: len(run.workers()) == 2, 180)
    grown = run.step()
    wait_for("steps of both", lambda: run.step() >= grown + 30, 120)
    nodes.kill(nodes.names[1])
    run.require_end()
    assert run.said.count("resuming from step") >= 2
    alone = finished.copy(tmp_path / "alone")
    alone.set({"training.steps": 700, "cluster.workers": 1, "monitoring.log_every": 1})
    alone.run(*TRAIN)
    ours, theirs = (
        pd.read_csv(each.folder / "reports/training.csv").set_index("step") for each in (run.project, alone)
    )
    assert ours.index.tolist() == theirs.index.tolist() == list(range(1, 701))
    # Sums over ranks are of another order. Seen: 1e-7, of means over five steps.
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-3)


def test_a_driver_that_dvc_left_behind_is_awaited(finished: Project, tmp_path: Path) -> None:
    run = Run(finished, tmp_path, **{"training.steps": 400})  # long enough for another dvc to start meanwhile
    runs = run.folder.parent
    command = ("dvc", "repro", "--force", "--single-item", "train")
    first = run.start(*command)
    wait_for("a run", lambda: any(runs.glob("*/metrics.jsonl")), 120)
    (run.folder,) = (path.parent for path in runs.glob("*/metrics.jsonl"))
    until(lambda: run.step() >= 5, 120, first)
    first.kill()  # dvc alone: what it has started goes on
    first.wait()
    assert run.project.processes("pipeline.train")
    run.start(*command)
    run.require_end()
    assert "trains this run already; waiting for its end" in run.said
    assert run.said.count("resuming from step") == 0, "nothing was trained twice"
    assert run.steps() == list(range(1, 401))
    assert sha256(run.project) == digest_of(Store(str(run.folder / "final")))
    wait_for("the end of all processes", lambda: not run.project.processes(), LINGERING)


def test_twenty_random_kills(finished: Project, tmp_path: Path) -> None:
    steps = 240
    whole = finished.copy(tmp_path / "whole")
    whole.set({"training.steps": steps})
    whole.run(*TRAIN)
    run = Run(finished, tmp_path, **{"training.steps": steps})
    key = json.loads((whole.folder / "models/train.json").read_text())["run_key"]
    run.folder = run.folder.parent / key
    chance = random.Random(0)
    process = run.start()
    kills = 0
    while kills < 20:
        before = run.step()
        # Some step further on, so that the run comes to its end, or some time after the start, before any step.
        target = min(before + chance.randrange(1, 14), steps - 5)
        early = chance.random() < 0.2
        if early:
            until(lambda: len(run.workers()) == 2, 240, process)
            time.sleep(chance.random())
        else:
            until(lambda target=target: run.step() >= target and len(run.workers()) == 2, 240, process)
        victim = chance.choice(["worker", "driver", "group"])
        if victim == "worker":
            os.kill(chance.choice(run.workers()), signal.SIGKILL)
        elif victim == "driver":
            process.kill()
            process.wait()
        else:
            kill_group(process)
        if victim != "worker":
            wait_for("the end of the workers", lambda: not run.workers(), LINGERING)
            process = run.start()
        kills += 1
        print(f"kill {kills}: {victim} at step {run.step()}", flush=True)
    run.require_end()
    assert run.said.count("resuming from step") >= 15
    run.require_same(whole)
    wait_for("the end of all processes", lambda: not marked(run.project.mark), LINGERING)
