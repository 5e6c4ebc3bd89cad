"""Tasks over actors: what each of them is given, and what comes back. In this process, without a Ray cluster."""

import errno
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray.data
import ray.util
import tiny
from ray.data import ActorPoolStrategy

from scadm.cluster import data, session
from scadm.cluster.data import map_tasks
from scadm.cluster.evidence import Evidence
from scadm.files.sharing import Inputs, Spread, Spreading

CLUSTER = tiny.CLUSTER.model_copy(update={"data_workers": 3})
TASKS = [{"start": i, "stop": i + 2} for i in range(0, 8, 2)]


class Rows:
    """Stands in for a Ray data set: its rows go through pickled actors, the last row first, as they well may."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.given: dict[str, Any] = {}
        self.actors: list[Any] = []

    def map(self, actor: type, **given: Any) -> "Rows":
        inspect.signature(ray.data.Dataset.map).bind(self, actor, **given)
        self.given = given
        self.actors = [actor() for _ in range(given["compute"].max_size)]
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for row in reversed(self.rows):
            yield pickle.loads(pickle.dumps(self.actors[row["index"] % len(self.actors)](row)))


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[list[Any], Rows]]:
    def run(make: Callable[[], Any], use_gpu: bool = False, **given: Any) -> tuple[list[Any], Rows]:
        sets: list[Rows] = []

        def from_items(rows: list[dict[str, Any]], override_num_blocks: int) -> Rows:
            assert override_num_blocks == len(rows), "each task is placed by itself"
            sets.append(Rows(rows))
            return sets[0]

        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(data, "connect", lambda _: nullcontext())
        monkeypatch.setattr(data, "require_reachable", lambda places, evidence: seen.extend(evidence))
        monkeypatch.setattr(ray.data, "from_items", from_items)
        seen: list[Evidence] = []
        results = map_tasks(
            make,
            TASKS,
            cluster=CLUSTER,
            use_gpu=use_gpu,
            folder=tmp_path,
            what="test",
            unit="rows",
            weight=lambda task: task["stop"] - task["start"],
            **given,
        )
        place = given["spread"].parts if given else str(tmp_path)
        assert [each.place for each in seen] == [place]
        assert not list(tmp_path.rglob(".scadm-probe-*"))
        return results, sets[0]

    return run


def span(start: int, stop: int) -> range:
    return range(start, stop)


def test_results_come_in_the_order_of_their_tasks(mapped: Callable[..., tuple[list[Any], Rows]]) -> None:
    results, rows = mapped(lambda: span)
    assert results == [range(0, 2), range(2, 4), range(4, 6), range(6, 8)]
    assert rows.given["compute"] == ActorPoolStrategy(size=3), "as many actors as data_workers"


def test_where_nodes_share_no_folder_parts_come_here_from_the_storage_root(
    mapped: Callable[..., tuple[list[Any], Rows]], tmp_path: Path
) -> None:
    work, root = tmp_path / "work", f"file://{tmp_path}/bucket"
    spread = Spread(Inputs(root, str(tmp_path / "job"), {}), str(work), f"{root}/work/masks-1")

    def write(start: int, stop: int) -> int:
        (work / f"{start}.txt").write_text(f"{start} to {stop}")
        return start

    function = Spreading(lambda: write, spread)
    for task in TASKS:  # on other nodes, whose disks are not seen here
        function(f"{task['start']}.txt", task)
        (work / f"{task['start']}.txt").unlink()
    kept = lambda start, stop: start  # noqa: E731  finds its part whole, and leaves it
    results, _ = mapped(lambda: kept, spread=spread, makes=lambda task: f"{task['start']}.txt")
    assert results == [0, 2, 4, 6]
    assert sorted(path.read_text() for path in work.iterdir()) == ["0 to 2", "2 to 4", "4 to 6", "6 to 8"]


def test_each_actor_makes_its_function_once(mapped: Callable[..., tuple[list[Any], Rows]]) -> None:
    made: list[int] = []

    def make() -> Callable[..., int]:
        made.append(len(made))
        return lambda start, stop, name=made[-1]: name

    results, _ = mapped(make)
    assert made == [0, 1, 2]
    assert sorted(results) == [0, 0, 1, 2]


def test_a_gpu_is_taken_where_one_is_used(mapped: Callable[..., tuple[list[Any], Rows]]) -> None:
    assert mapped(lambda: span)[1].given["num_gpus"] == 0
    assert mapped(lambda: span, use_gpu=True)[1].given["num_gpus"] == 1


def test_what_the_user_can_mend_comes_back_from_a_task_and_from_its_making(
    mapped: Callable[..., tuple[list[Any], Rows]],
) -> None:
    def refuse(start: int, stop: int) -> None:
        raise ValueError(f"row {start} is bad")

    def unmade() -> Callable[..., None]:
        raise ValueError("the weights are bad")

    with pytest.raises(ValueError, match="row 6 is bad"):
        mapped(lambda: refuse)
    with pytest.raises(ValueError, match="the weights are bad"):
        mapped(unmade)


def test_an_actor_that_sees_another_folder_says_so(
    mapped: Callable[..., tuple[list[Any], Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(self: Rows, actor: type, **given: Any) -> Rows:
        for path in tmp_path.iterdir():
            path.write_bytes(b"another")
        return simple(self, actor, **given)

    simple = Rows.map
    monkeypatch.setattr(session.time, "sleep", lambda _: None)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(Rows, "map", elsewhere)
    with pytest.raises(
        ValueError, match=r"node \S+ \(10\.0\.0\.7\) does not see the stage's files in .*\.scadm-probe-"
    ):
        mapped(lambda: span)
    # A finished out is not written to, but known by its manifest.
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"does not see the stage's files in .*it read manifest\.json with sha256"):
        mapped(lambda: span)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_comes_back_as_a_value_and_other_faults_are_ray_s(number: int) -> None:
    def write(number: int) -> None:
        raise OSError(number, "cannot write", "part.parquet")

    back = data._call(write, {"index": 5, "task": pickle.dumps({"number": number})})
    error = pickle.loads(back["result"])
    assert back["index"] == 5
    assert (error.errno, error.filename) == (number, "part.parquet")
    with pytest.raises(PermissionError):
        data._call(write, {"index": 5, "task": pickle.dumps({"number": errno.EACCES})})


def test_ray_has_nothing_to_say_against_it(mapped: Callable[..., tuple[list[Any], Rows]]) -> None:
    def warn(self: Rows, actor: type, **given: Any) -> Rows:
        ray.data.dataset._warn_on_ray_remote_args({"max_restarts": given["max_restarts"]})
        return simple(self, actor, **given)

    simple = Rows.map
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(Rows, "map", warn)
        _, rows = mapped(lambda: span)
    assert rows.given["max_restarts"] == 0, "on one machine, what memory ran out for is not tried for ever"
