"""Ray Data over tasks: each task is a range of rows, and what it returns is a small report of what it has written."""

import errno
import logging
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from scadm.cluster.session import connect, is_remote, require_reachable
from scadm.config import ClusterConfig
from scadm.progress import bar

Task = dict[str, Any]


def _call(function: Callable[..., Any], row: dict[str, Any]) -> dict[str, Any]:
    """Run one task. What the user can mend travels back as a value, so that Ray does not try it again."""
    try:
        result: Any = function(**pickle.loads(row["task"]))
    except ValueError as error:
        result = error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        result = error
    return {"index": row["index"], "result": pickle.dumps(result)}


def _refuse(error: ValueError, **_: Any) -> None:
    """Stands in for a function that could not be made, so that the reason comes back with the first task."""
    raise error


def _run(
    mapper: Callable[[Any], Any],
    tasks: list[Task],
    cluster: ClusterConfig,
    what: str,
    unit: str,
    weight: Callable[[Task], int],
) -> list[Any]:
    rows = [{"index": i, "task": pickle.dumps(task)} for i, task in enumerate(tasks)]
    results: dict[int, Any] = {}
    with connect(cluster):
        require_reachable({"the stage's outs in": str(Path.cwd())})
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and timings; our bar says what matters
        context = DataContext.get_current()
        context.enable_progress_bars = False
        dataset = mapper(ray.data.from_items(rows, override_num_blocks=len(rows)))
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
    return [results[i] for i in range(len(tasks))]


def map_tasks(
    function: Callable[..., Any],
    tasks: list[Task],
    *,
    cluster: ClusterConfig,
    what: str,
    unit: str,
    weight: Callable[[Task], int],
) -> list[Any]:
    """`[function(**task) for task in tasks]` by Ray Data tasks, with a bar of `weight` units of each.

    Raises the ValueError that a task has raised.
    """
    return _run(
        lambda rows: rows.map(partial(_call, function), compute=TaskPoolStrategy(cluster.data_workers)),
        tasks,
        cluster,
        what,
        unit,
        weight,
    )


def map_tasks_with(
    make: Callable[..., Callable[..., Any]],
    arguments: Task,
    tasks: list[Task],
    *,
    cluster: ClusterConfig,
    what: str,
    unit: str,
    weight: Callable[[Task], int],
) -> list[Any]:
    """The same with a fixed pool of actors: `f = make(**arguments)` once in each, then `f(**task)`."""
    size = min(cluster.data_workers, len(tasks))

    class Actor:
        def __init__(self) -> None:
            try:
                self.function = make(**arguments)
            except ValueError as error:
                self.function = partial(_refuse, error)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return _call(self.function, row)

    return _run(
        lambda rows: rows.map(
            Actor,
            compute=ActorPoolStrategy(size=size),
            num_gpus=1 if cluster.use_gpu else 0,
            # On one machine an actor dies when memory runs out, and would again; a cluster loses nodes.
            max_restarts=-1 if is_remote(cluster) else 0,
        ),
        tasks,
        cluster,
        what,
        unit,
        weight,
    )
