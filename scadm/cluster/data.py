"""Ray Data over tasks: each task is a range of rows, and what it returns is a small report of what it has written."""

import logging
import pickle
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from scadm.cluster.evidence import Evidence, content, token
from scadm.cluster.session import connect, is_remote, require_reachable, require_seen
from scadm.config import ClusterConfig
from scadm.files.manifest import DISK_FULL, FILE_NAME
from scadm.files.sharing import Spread, Spreading
from scadm.progress import bar

Task = dict[str, Any]


def _call(function: Callable[..., Any], row: dict[str, Any]) -> dict[str, Any]:
    """Run one task. What the user can mend travels back as a value, so that Ray does not try it again."""
    try:
        result: Any = function(**pickle.loads(row["task"]))
    except ValueError as error:
        result = error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        result = error
    return {"index": row["index"], "result": pickle.dumps(result)}


def _refuse(error: ValueError, **_: Any) -> None:
    """Stands in for a function that could not be made, so that the reason comes back with the first task."""
    raise error


def _shown(folder: Path, spread: Spread | None) -> AbstractContextManager[Evidence]:
    """What every actor must see. Where the tasks only read a finished out, nothing is written there."""
    if spread is not None:
        return token("storage.root", spread.parts)
    place = str(folder)
    if (folder / FILE_NAME).is_file():
        return nullcontext(content("the stage's files in", place))
    return token("the stage's files in", place, sole=True)


def map_tasks(
    make: Callable[[], Callable[..., Any]],
    tasks: list[Task],
    *,
    cluster: ClusterConfig,
    use_gpu: bool,
    folder: Path,
    what: str,
    unit: str,
    weight: Callable[[Task], int],
    spread: Spread | None = None,
    makes: Callable[[Task], str] | None = None,
) -> list[Any]:
    """`[function(**task) for task in tasks]` by a fixed pool of actors, each with a `function = make()` of its own.

    An actor takes a GPU where `use_gpu` is set. `folder` is where the tasks read or write; a bar counts `weight`
    units of each. Where nodes share no folder, `spread` has the inputs at hand on each, and the file that a task makes
    in `folder`, which `makes` names, gathered here. Raises the ValueError that a task or `make` has raised, an OSError
    where a disk is full, and ValueError where a node does not see `folder`, or the storage root, as this process does.
    """
    given_tasks: list[Task] = tasks
    if spread is not None:
        make = partial(Spreading, make, spread)
        given_tasks = [{"part": makes(task) if makes else None, "task": task} for task in tasks]

    class Actor:
        def __init__(self) -> None:
            try:
                require_seen([evidence])
                self.function = make()
            except ValueError as error:
                self.function = partial(_refuse, error)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return _call(self.function, row)

    rows = [{"index": i, "task": pickle.dumps(task)} for i, task in enumerate(given_tasks)]
    results: dict[int, Any] = {}
    with connect(cluster), _shown(folder, spread) as evidence:
        require_reachable({}, [evidence])
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and timings; our bar says what matters
        DataContext.get_current().enable_progress_bars = False
        with warnings.catch_warnings():
            # Ray 2.60 deprecates max_restarts here, but offers no other way yet to say it (no ActorPoolStrategy does).
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*", category=RayDeprecationWarning)
            given: Any = ray.data.from_items(rows, override_num_blocks=len(rows))  # a class is no function to its types
            dataset = given.map(
                Actor,
                compute=ActorPoolStrategy(size=min(cluster.data_workers, len(tasks))),
                num_gpus=1 if use_gpu else 0,
                # On one machine an actor dies when memory runs out, and would again; a cluster loses nodes.
                max_restarts=-1 if is_remote(cluster) else 0,
            )
        with bar(sum(map(weight, tasks)), what, unit) as progress:
            for row in dataset.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, Exception):
                    raise result
                results[row["index"]] = result
                progress.update(weight(tasks[row["index"]]))
    missing = [tasks[i] for i in range(len(tasks)) if i not in results]
    if missing:
        raise ValueError(f"{len(missing)} of {len(tasks)} tasks returned nothing, the first of them {missing[0]}")
    if spread is None:
        return [results[i] for i in range(len(tasks))]
    for i, task in enumerate(given_tasks):
        if task["part"] is not None:
            spread.gather(task["part"], results[i][1])
    return [results[i][0] for i in range(len(tasks))]
