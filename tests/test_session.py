"""What every node of a cluster must reach is tried before anything starts.

The nodes are of this process: a task on one is the real function, called here. `test_submit.py` has a real cluster.
"""

import base64
import hashlib
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import tiny
from ray.exceptions import GetTimeoutError

from scadm import jobs
from scadm.cluster import session
from scadm.cluster.evidence import content, token
from scadm.cluster.session import require_reachable, require_seen
from scadm.config import ClusterConfig
from scadm.files import patience
from scadm.files.store import Store


def node(name: str, host: str, **given: Any) -> dict[str, Any]:
    found = {"NodeID": name, "NodeManagerHostname": host, "NodeManagerAddress": "10.0.0.1", "Alive": True}
    return found | {"Resources": {"CPU": 2.0}} | given


FIRST, SECOND, THIRD, FOURTH = (digit * 56 for digit in "abcd")  # node ids, as Ray makes them
OTHER = hashlib.sha256(b"another").hexdigest()[:16]
HEAD, WORKER = node(FIRST, "head"), node(SECOND, "gpu-7")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A cluster of some nodes; on each, a task runs after `before`. Returns the list of nodes that were asked."""
    for name in (jobs.HOME, "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)

    def made(*nodes: dict[str, Any], before: Callable[[str], object] = lambda node: None) -> list[str]:
        asked: list[str] = []

        class Task:
            def __init__(self, function: Callable[..., Any]) -> None:
                self.function = function

            def options(self, num_cpus: int, scheduling_strategy: Any) -> "Task":
                assert num_cpus == 0, "it must not wait for a node whose CPUs are busy"
                assert not scheduling_strategy.soft
                self.node = scheduling_strategy.node_id
                return self

            def remote(self, *given: Any) -> Callable[[], Any]:
                def answer() -> Any:
                    asked.append(self.node)
                    before(self.node)
                    return self.function(*given)

                return answer

        monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: FIRST))
        monkeypatch.setattr(ray, "remote", Task)
        monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())
        return asked

    return made


@pytest.fixture
def server() -> Iterator[str]:
    """Answers /health as MLflow does, /private/health to `me` alone, and any other path as nobody does."""
    signed = f"Basic {base64.b64encode(b'me:S3cret').decode()}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            private = 200 if self.headers["Authorization"] == signed else 404
            self.send_response({"/health": 200, "/locked/health": 401, "/private/health": private}.get(self.path, 404))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_node_reads_a_token_back_and_none_is_left(cluster: Any, tmp_path: Path, server: str, scheme: str) -> None:
    seen: list[list[str]] = []
    asked = cluster(
        HEAD,
        WORKER,
        node(THIRD, "gpu-8", Alive=False),
        node(FOURTH, "gpu-9", Resources={"memory": 1.0}),
        before=lambda name: seen.append(left(tmp_path)),
    )
    require_reachable({"storage.root": f"{scheme}{tmp_path}/runs", "the shards in": str(tmp_path), "tracking": server})
    assert asked == [FIRST, SECOND], "those that live and have CPUs"
    assert [len(names) for names in seen] == [2, 2], "a token in each place"
    assert left(tmp_path) == []


def test_a_node_that_sees_another_folder_is_named(cluster: Any, tmp_path: Path) -> None:
    def other_disk(name: str) -> None:
        if name == SECOND:
            for path in tmp_path.iterdir():
                path.write_text("another")

    cluster(HEAD, WORKER, before=other_disk)
    with pytest.raises(
        ValueError,
        match=rf"node gpu-7 \(10\.0\.0\.1\) does not see storage\.root {tmp_path} .*sha256 {OTHER}, expected \S+ with",
    ) as caught:
        require_reachable({"storage.root": str(tmp_path)})
    assert "Mount the same folder" in str(caught.value) and "s3://" in str(caught.value)
    assert left(tmp_path) == []


def test_a_node_without_the_folder_or_credentials_is_named(cluster: Any, tmp_path: Path) -> None:
    place = tmp_path / "runs"
    cluster(HEAD, WORKER, before=lambda name: shutil.rmtree(place))
    with pytest.raises(ValueError, match=r"head .* does not see storage.root file://.*FileNotFoundError.*credentials"):
        require_reachable({"storage.root": f"file://{place}"})


def test_an_out_is_compared_by_its_manifest_and_not_written_to(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "manifest.json").chmod(0o400)
    tmp_path.chmod(0o500)
    shards = content("the shards in", str(tmp_path))
    seen: list[list[str]] = []
    asked = cluster(HEAD, WORKER, before=lambda name: seen.append(left(tmp_path)))
    require_reachable({}, [shards])
    assert asked == [FIRST, SECOND] and seen == 2 * [["manifest.json"]]
    tmp_path.chmod(0o700)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"head .* does not see the shards in .*FileNotFoundError"):
        require_reachable({}, [shards])
    with pytest.raises(ValueError, match=r"this process cannot read manifest\.json of the shards in .*dvc repro"):
        content("the shards in", str(tmp_path))


def test_a_worker_looks_itself_and_again_where_a_network_may_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(session.socket, "gethostname", lambda: "late")
    monkeypatch.setattr(session.time, "sleep", waited.append)
    with token("storage.root", str(tmp_path)) as shown:
        require_seen([shown])
        path = tmp_path / shown.file
        path.rename(tmp_path / "away")
        with pytest.raises(
            ValueError, match=rf"node late \(10\.0\.0\.7\) does not see storage\.root {tmp_path} .*Error"
        ):
            require_seen([shown])
        assert len(waited) == 2
        monkeypatch.setattr(session.time, "sleep", lambda _: (tmp_path / "away").rename(path))
        require_seen([shown])
    assert left(tmp_path) == []


def test_a_worker_waits_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    evidence = content("the shards in", str(tmp_path))
    read, away, said = Store.read, iter(5 * [True]), []

    def answers_late(store: Store, name: str) -> bytes:
        if next(away, False):
            raise OSError("AWS Error NETWORK_CONNECTION")
        return read(store, name)

    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    monkeypatch.setattr(Store, "local", False)
    monkeypatch.setattr(Store, "read", answers_late)
    require_seen([evidence], said.append)
    assert said == [
        f"warning: {tmp_path} cannot be read (AWS Error NETWORK_CONNECTION); trying again",
        f"{tmp_path} can be read again",
    ]


def test_a_token_goes_at_the_end_and_one_of_a_killed_process_with_the_next(tmp_path: Path) -> None:
    for name in (".scadm-probe-old", ".other", "part"):
        (tmp_path / name).write_text("")
    with token("storage.root", str(tmp_path)):
        assert len(left(tmp_path)) == 4, "others may be at work in the place"
    with token("storage.root", str(tmp_path), sole=True):
        assert len(left(tmp_path)) == 3
    assert sorted(left(tmp_path)) == [".other", "part"]
    with token("storage.root", f"file://{tmp_path}/new", sole=True):
        pass


def test_a_place_that_cannot_be_written_to_is_said(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = cluster(HEAD, WORKER)
    with pytest.raises(ValueError, match=r"this process cannot write to storage\.root .*/file/runs"):
        require_reachable({"the work in": str(tmp_path), "storage.root": str(tmp_path / "file" / "runs")})
    assert asked == [] and left(tmp_path) == ["file"]


def test_a_server_must_answer_each_node(cluster: Any, server: str) -> None:
    cluster(HEAD, WORKER)
    require_reachable({"tracking.uri": f"{server}/locked"})  # it is there; whether the password is right shows later
    with pytest.raises(ValueError, match=rf"head .* does not reach tracking.uri {server}/other: HTTP status 404"):
        require_reachable({"tracking.uri": f"{server}/other"})
    with pytest.raises(ValueError, match=r"does not reach tracking.uri http://127.0.0.1:1: .*refused"):
        require_reachable({"tracking.uri": "http://127.0.0.1:1"})


def test_a_server_s_password_is_used_and_not_told(cluster: Any, server: str, tmp_path: Path) -> None:
    cluster(HEAD, WORKER)
    named = server.replace("://", "://me:S3cret@")
    require_reachable({"tracking.uri": f"{named}/private"})
    for place, said in ((f"{named}/other", "HTTP status 404"), ("http://me:S3cret@127.0.0.1:1", "refused")):
        with pytest.raises(ValueError, match=rf"does not reach tracking\.uri http://\*\*\*@127.*{said}") as caught:
            require_reachable({"tracking.uri": place})
        assert "S3cret" not in str(caught.value)


def test_a_node_that_runs_nothing_is_named(cluster: Any, tmp_path: Path) -> None:
    def silent(name: str) -> None:
        if name == SECOND:
            raise GetTimeoutError("no answer")

    cluster(HEAD, WORKER, before=silent)
    with pytest.raises(ValueError, match=r"node gpu-7 .* ran no task within 120 s \(GetTimeoutError: no answer\)"):
        require_reachable({"storage.root": str(tmp_path)})
    assert left(tmp_path) == []


def test_on_this_node_alone_there_is_nothing_to_try(cluster: Any, tmp_path: Path) -> None:
    asked = cluster(HEAD)
    require_reachable({"storage.root": str(tmp_path / "absent"), "tracking.uri": "sqlite:////data/mlflow.db"})
    assert asked == [] and not (tmp_path / "absent").exists()


def test_a_local_tracking_store_does_on_one_machine_only(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"tracking.uri": "sqlite:////data/mlflow.db"}
    cluster(HEAD, node(SECOND, "head"))
    require_reachable(places)
    cluster(HEAD, WORKER)
    with pytest.raises(ValueError, match=r"tracking\.uri sqlite:////data/mlflow\.db .*gpu-7.*http://HOST:PORT"):
        require_reachable(places)
    # An upload is deleted after the job, unless its home is a folder that stays.
    cluster(HEAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match="an uploaded job, whose folder is deleted"):
        require_reachable(places)
    monkeypatch.setenv(jobs.HOME, str(tmp_path))
    require_reachable(places)


@pytest.mark.parametrize("how", ["cluster.address", "RAY_ADDRESS"])
def test_a_cluster_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("it would try for long"))
    config = tiny.CLUSTER.model_copy(update={"address": "127.0.0.1:1" if how == "cluster.address" else None})
    if how == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(ValueError, match=r"is 127\.0\.0\.1:1, expected HOST:6379 .*refused.*`ray start --head`"),
        session.connect(config),
    ):
        pass


def test_a_cluster_that_refuses_is_said(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("ray is no HTTP")

    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(ray, "init", init)
    config = tiny.CLUSTER.model_copy(update={"address": server.removeprefix("http://")})
    with pytest.raises(ValueError, match=r"expected HOST:6379 .*ray is no HTTP.*same command goes on"):
        session.connect(config).__enter__()


def test_an_address_that_takes_jobs_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    config = ClusterConfig.model_construct(address="http://127.0.0.1:8265")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:8265, which takes jobs: this can only run there as one"):
        session._address(config)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert session._address(config) == "auto", "a job is on its cluster already"
