"""The connection to Ray: a private one on this machine, or a cluster; the one place that sets a runtime environment."""

import logging
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import requests
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scadm import jobs
from scadm.config import ClusterConfig
from scadm.files.store import Store
from scadm.redaction import brief, redacted

_SECONDS_TO_READ = 120  # a node that has just joined first receives the code
_SECONDS_TO_ANSWER = 10
_SECONDS_TO_LISTEN = 5


def is_remote(cluster: ClusterConfig) -> bool:
    """Whether the work goes to a cluster that was started by someone else."""
    return cluster.address is not None or "RAY_ADDRESS" in os.environ


def _is_local_store(address: str) -> bool:
    return address.startswith("sqlite:")


def _is_server(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def require_reachable(places: Mapping[str, str]) -> None:
    """Raise ValueError unless every node with CPUs reaches `places`, which are addresses by what they are for.

    Into a folder, local or remote, this process writes a token that a task on each node reads back, and removes it. A
    server of MLflow is asked from each node. A local tracking store does on one machine only. On a Ray of one node,
    this process's own, there is nothing to try.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    at_work = [node for node in nodes if node["Resources"].get("CPU", 0) > 0]
    _refuse_local_stores(places, {node["NodeManagerHostname"] for node in nodes})
    if [node["NodeID"] for node in at_work] == [here]:
        return
    token, tokens = uuid.uuid4().hex, {}
    try:
        for what, place in places.items():
            if not _is_local_store(place) and not _is_server(place):
                tokens[what] = Store(place)
                _written(what, tokens[what], token)
        asked = {what: place for what, place in places.items() if not _is_local_store(place)}
        found = {
            ray.remote(_look)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(asked, token): node
            for node in at_work
        }
        for answer, node in found.items():
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            try:
                said: dict[str, str] = ray.get(answer, timeout=_SECONDS_TO_READ)
            except RayError as error:
                raise ValueError(
                    f"node {name} ran no task within {_SECONDS_TO_READ} s ({type(error).__name__}: "
                    f"{' '.join(str(error).split())[:300]}). Its logs say why; let it leave the cluster, or mend it."
                ) from None
            for what, place in asked.items():
                if said[what] != _right(place, token):
                    raise ValueError(_unreachable(name, what, place, said[what], token))
    finally:
        for store in tokens.values():
            _remove(store, token)


def _token_name(token: str) -> str:
    return f".scadm-probe-{token}"


def _right(place: str, token: str) -> str:
    return "answers" if _is_server(place) else token


def _written(what: str, store: Store, token: str) -> None:
    try:
        store.write(_token_name(token), token.encode())
    except OSError as error:
        raise ValueError(
            f"this process cannot write to {what} {redacted(store.root)} ({redacted(str(error))}), so no result could "
            "be kept there. Check that the place exists and that this node may write to it (for s3://, the nodes' own "
            "AWS_* variables)."
        ) from None


def _remove(store: Store, token: str) -> None:
    with suppress(OSError):
        store.filesystem.delete_file(f"{store.path}/{_token_name(token)}")


def _look(places: Mapping[str, str], token: str) -> dict[str, str]:
    """On a node: what each place holds under the token's name, or says of itself, or the reason why not."""
    return {what: _answer(place) if _is_server(place) else _read(place, token) for what, place in places.items()}


def _read(place: str, token: str) -> str:
    try:
        return Store(place).read(_token_name(token)).decode(errors="replace")
    except Exception as error:  # whatever the file system, the network or a missing credential does
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


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
