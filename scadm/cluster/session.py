"""The connection to Ray: a private one on this machine, or a cluster; the one place that sets a runtime environment."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.util
import requests
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scadm import jobs
from scadm.cluster.evidence import Evidence, token
from scadm.config import ClusterConfig
from scadm.files.patience import said_here
from scadm.redaction import brief, one_line, redacted

_SECONDS_TO_READ = 120  # a node that has just joined first receives the code
_SECONDS_TO_ANSWER = 10
_SECONDS_TO_LISTEN = 5
_LOOKS = 3
_BETWEEN_LOOKS = 5.0  # seconds


def is_remote(cluster: ClusterConfig) -> bool:
    """Whether the work goes to a cluster that was started by someone else."""
    return cluster.address is not None or "RAY_ADDRESS" in os.environ


def _is_local_store(address: str) -> bool:
    return address.startswith("sqlite:")


def _is_server(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def require_reachable(places: Mapping[str, str], evidence: Sequence[Evidence] = ()) -> None:
    """Raise ValueError unless every node with CPUs reaches `places`, which are addresses by what they are for.

    In a folder, local or remote, this process leaves a token meanwhile that a task on each node reads, and `evidence`
    is read likewise. A server of MLflow is asked from each node. A local tracking store does on one machine only. On a
    Ray of one node, this process's own, there is nothing to try. Of nodes that are not there yet nothing is known:
    what runs there asks itself (`require_seen`).
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    at_work = [node for node in nodes if node["Resources"].get("CPU", 0) > 0]
    _refuse_local_stores(places, {node["NodeManagerHostname"] for node in nodes})
    if [node["NodeID"] for node in at_work] == [here]:
        return
    servers = {what: place for what, place in places.items() if _is_server(place)}
    folders = {what: place for what, place in places.items() if what not in servers and not _is_local_store(place)}
    with ExitStack() as stack:
        shown = [*(stack.enter_context(token(what, place)) for what, place in folders.items()), *evidence]
        found = {
            ray.remote(_look)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(servers, shown): node
            for node in at_work
        }
        for answer, node in found.items():
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            try:
                said: dict[str, str] = ray.get(answer, timeout=_SECONDS_TO_READ)
            except RayError as error:
                raise ValueError(
                    f"node {name} ran no task within {_SECONDS_TO_READ} s ({type(error).__name__}: "
                    f"{one_line(error)}). Its logs say why; let it leave the cluster, or mend it."
                ) from None
            expected = [(what, place, "answers") for what, place in servers.items()]
            for what, place, right in expected + [(each.what, each.place, each.expected) for each in shown]:
                if said[what] != right:
                    raise ValueError(_unreachable(name, what, place, said[what], right))


def _look(servers: Mapping[str, str], shown: Sequence[Evidence]) -> dict[str, str]:
    """On a node: what each server and each place says of itself, or the reason why not."""
    return {what: _answer(place) for what, place in servers.items()} | {each.what: each.found() for each in shown}


def require_seen(evidence: Sequence[Evidence], say: Callable[[str], None] = said_here) -> None:
    """On a worker, as it starts: raise ValueError, naming the node, unless it sees the places that the driver sees.

    A store that is away is waited for, and `say` gets what is said of it: a restart must outlive an outage.
    """
    for each in evidence:
        said = each.found(say)
        for _ in range(_LOOKS - 1):  # a mount may come after the node
            if said == each.expected:
                break
            time.sleep(_BETWEEN_LOOKS)
            said = each.found(say)
        if said != each.expected:
            node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
            raise ValueError(_unreachable(node, each.what, each.place, said, each.expected))


def _answer(address: str) -> str:
    """As MLflow asks: with what the address holds as user:password@, and what ~/.netrc or a proxy's variables say."""
    try:
        with requests.get(f"{address.rstrip('/')}/health", timeout=_SECONDS_TO_ANSWER, stream=True) as found:
            # A server that wants a password, or another one, is there too.
            return "answers" if found.ok or found.status_code in (401, 403) else f"HTTP status {found.status_code}"
    except Exception as error:
        return f"{type(error).__name__}: {brief(error)}"


def _unreachable(node: str, what: str, place: str, said: str, token: str) -> str:
    place, said = redacted(place), redacted(said)
    if _is_server(place):
        return (
            f"node {node} does not reach {what} {place}: {said}, expected an answer of {place}/health. What is trained "
            "would not be logged. Let the server listen on an address that the nodes reach (`mlflow server --host "
            "0.0.0.0`, with a password), and name it in tracking.uri."
        )
    remedy = (
        "Check that the node reaches the address and has credentials of its own (AWS_* variables or a role)"
        if "://" in place
        else "Mount the same folder at the same path on all nodes, or set storage.root to an address that they reach "
        "(s3://bucket/path)"
    )
    return (
        f"node {node} does not see {what} {place} as this process does: it read {said}, expected {token}. What it "
        f"writes would be lost. {remedy}."
    )


def _refuse_local_stores(places: Mapping[str, str], hosts: set[str]) -> None:
    local = {what: place for what, place in places.items() if _is_local_store(place)}
    alone = jobs.in_job() and jobs.is_upload(Path.cwd()) and not os.environ.get(jobs.HOME)
    if local and (len(hosts) > 1 or alone):
        said = ", ".join(f"{what} {place}" for what, place in local.items())
        where = (
            "an uploaded job, whose folder is deleted" if alone else f"a cluster of several machines ({sorted(hosts)})"
        )
        raise ValueError(
            f"{said} is a file, which does not do for {where}: nobody would see what is logged. Start a server that "
            "every node reaches (`mlflow server`), and set tracking.uri to its http://HOST:PORT."
        )


def _address(cluster: ClusterConfig) -> str:
    """As ray.init takes it: a job is on its cluster already, whatever address it was sent to."""
    if (address := jobs.launch_address(cluster)) is not None:
        raise ValueError(
            f"cluster.address (or RAY_ADDRESS) is {address}, which takes jobs: this can only run there as one (`scadm "
            "submit`), and what is no stage needs HOST:6379, or a private Ray."
        )
    return "auto" if jobs.in_job() or cluster.address is None else cluster.address


def require_listener(address: str) -> None:
    """Raise ConnectionError if nothing listens at an address of Ray; at once, where Ray would try for long."""
    if address == "auto":  # as ray.init reads it
        address = os.environ.get("RAY_ADDRESS") or "auto"
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_LISTEN).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {address}: {error}") from None


@contextmanager
def connect(cluster: ClusterConfig) -> Iterator[None]:
    """Be connected to Ray, and leave it (ending a private one) whatever happens.

    Raises ValueError where the cluster does not answer.
    """
    if is_remote(cluster):
        # In a job that was submitted with a working directory, the job's runtime environment already holds the code.
        # Else this folder is uploaded, without what .gitignore and .rayignore name.
        environment: dict[str, Any] | None = None if jobs.in_job() else {"working_dir": "."}
        address = _address(cluster)
        try:
            require_listener(address)
            ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RayError) as error:
            named = cluster.address or os.environ["RAY_ADDRESS"]
            raise ValueError(
                f"cluster.address (or RAY_ADDRESS) is {redacted(named)}, expected HOST:6379 of a running Ray head: "
                f"{brief(error)}. Start it (`ray start --head`), correct the address, or set cluster.address to null "
                "and unset RAY_ADDRESS for a private Ray; a cluster with a token needs RAY_AUTH_MODE=token and the "
                "same token here. What is finished is kept: the same command goes on from there."
            ) from None
    else:
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",  # nobody else's business
            # Logical CPUs: enough for every worker beside the data tasks, however few cores there are.
            num_cpus=max(os.cpu_count() or 1, cluster.workers, cluster.data_workers),
            include_dashboard=False,
            object_store_memory=cluster.object_store_mb * 1024**2,
            logging_level=logging.ERROR,
            log_to_driver=False,  # what workers have to say comes back as results (see `board`)
        )
    try:
        yield
    finally:
        ray.shutdown()
