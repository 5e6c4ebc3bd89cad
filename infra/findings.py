"""What a training has left: in S3, in MLflow, and in the nodes' logs. Each raises ValueError unless all is well."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow.tracking import MlflowClient

from scadm.config import MonitoringConfig
from scadm.files import results, sharing
from scadm.files.checkpoint import digest_of, is_complete, verify
from scadm.files.store import Store
from scadm.training import journal

LOSS = "train/loss"


def ranks_of(folder: Path) -> set[int]:
    """World ranks of the training workers that ran on a node, by the logs that Ray Train wrote in its `folder`."""
    found = set()
    for log in folder.glob("session_2*/logs/train/*worker*.log"):
        for line in log.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # half a line of a killed worker
            if isinstance(row, dict) and "world_rank" in row:
                found.add(int(row["world_rank"]))
    return found


def require_spread(ranks: Mapping[str, set[int]], workers: int) -> None:
    """Raise ValueError unless each node had a worker, and all of them together every rank."""
    idle = [node for node, found in ranks.items() if not found]
    if idle or set().union(*ranks.values()) != set(range(workers)):
        each = ", ".join(f"{node}: {sorted(found) or 'none'}" for node, found in ranks.items())
        raise ValueError(f"ranks by node are {each}; expected {workers} ranks, and some on each node.")


def checkpoint(root: str) -> tuple[Store, dict[str, int]]:
    """The one run below a storage root, and the files of its final checkpoint with their sizes, all read again."""
    runs = (Store(root) / "runs").folders()
    if len(runs) != 1:
        raise ValueError(f"{root}/runs holds {runs}, expected the folder of one run.")
    run = Store(root) / "runs" / runs[0]
    final = run / "final"
    if not is_complete(final):
        raise ValueError(f"{final.root} is not a complete checkpoint.")
    verify(final)
    return run, {name: final.size(name) or 0 for name in final.files()}


def handed_over(root: str, run: Store) -> str:
    """The id of the job that says to have made the run, in the result that a job leaves last.

    Its out, models/train.json, must be at the storage root and name the weights that are there.
    """
    key = run.root.rsplit("/", 1)[-1]
    result = results.read(root, "train", key)
    if result is None or result.run_key != key:
        raise ValueError(f"{results.place(root, 'train', key).root} holds no result of run {key}, but {result}.")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "train.json"
        sharing.fetch(Store(sharing.copy_place(root, result.outs["models/train.json"])), out)
        named = json.loads(out.read_text())["sha256"]
    if named != (found := digest_of(run / "final")):
        raise ValueError(f"the job's models/train.json names weights {named}, {run.root}/final is {found}.")
    return result.submission


def expected_steps(steps: int, monitoring: MonitoringConfig) -> set[int]:
    """At which steps the loss is logged."""
    return {*range(monitoring.log_every, steps + 1, monitoring.log_every), steps}


def require_once(name: str, logged: Iterable[int], expected: Iterable[int]) -> None:
    """Raise ValueError unless each expected step of a metric was logged, and just once."""
    counts, wanted = Counter(logged), set(expected)
    twice = sorted(step for step, count in counts.items() if count > 1)
    missing, strange = sorted(wanted - set(counts)), sorted(set(counts) - wanted)
    if twice or missing or strange:
        raise ValueError(f"{name} in MLflow: logged twice {twice}, missing {missing}, not expected {strange}.")


def tracked(uri: str, run: Store, loss_steps: set[int]) -> str:
    """What the MLflow server holds of the run, in words: one finished run, in which every metric of the run's own
    journal is there once at each step."""
    client = MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    if len(runs) != 1:
        raise ValueError(f"{uri} holds {len(runs)} runs, expected 1.")
    info = runs[0].info
    if info.status != "FINISHED":
        raise ValueError(f"the MLflow run {info.run_id} is {info.status}, expected FINISHED.")
    steps: dict[str, list[int]] = {}
    for row in journal.read(run):
        for name in row.keys() - journal.NOT_METRICS:
            steps.setdefault(name, []).append(int(row["step"]))
    steps[LOSS] = sorted(loss_steps)  # by the parameters, whatever the journal says
    for name, expected in steps.items():
        require_once(name, (row.step for row in client.get_metric_history(info.run_id, name)), expected)
    return f"run {info.run_name} FINISHED; {len(steps)} metrics, {len(loss_steps)} steps of {LOSS}, each once"
