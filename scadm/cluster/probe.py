"""Whether Ray works, tried in a process of its own: a client that cannot connect may hang, or end its process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

import ray

from scadm import jobs
from scadm.cluster.session import connect, is_remote, require_listener, require_reachable
from scadm.config import ClusterConfig

_LACKING = 3
"""Exit status of the attempt where the cluster works, but has too little for the training."""


class Lacking(OSError):
    """The cluster answers, but has not what cluster.workers needs."""


def probe(cluster: ClusterConfig, places: Mapping[str, str], seconds: float) -> str:
    """What the Ray of `cluster` offers, in words, after a task has run there; a private one is started and ended.

    `places` are addresses by what they are for, which every node must reach. Where the cluster takes jobs, at an
    http:// address, it is asked what it has, and runs nothing. Raises OSError with the reason where that fails or takes
    longer than `seconds`, and Lacking where the cluster has too little.
    """
    if is_remote(cluster):
        require_listener(cluster.address or "auto")
    request = json.dumps({"cluster": cluster.model_dump(mode="json"), "places": dict(places)})
    with subprocess.Popen(
        [sys.executable, "-m", "scadm.cluster.probe", request],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=seconds)
        except BaseException as error:  # an interruption too: what was started here must not stay
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise OSError(f"no task was done within {seconds:g} s") from None
            raise
    lines = (out if process.returncode == 0 else errors).strip().splitlines()
    if process.returncode == _LACKING:
        raise Lacking(lines[-1])
    if process.returncode != 0:
        raise OSError(lines[-1] if lines else f"the attempt ended with status {process.returncode} and no message")
    return lines[-1]


def _version() -> str:
    """The remote task: that it can import this package shows that the code has arrived."""
    import scadm

    return scadm.__version__


def _require_resources(cluster: ClusterConfig, found: Mapping[str, float]) -> None:
    """Raise Lacking where the training would wait for what the cluster does not have."""
    key = "min_workers" if cluster.min_workers else "workers"
    fewest = cluster.min_workers or cluster.workers
    for what, wanted in (("CPU", fewest), ("GPU", fewest if cluster.use_gpu else 0)):
        if found.get(what, 0) < wanted:
            raise Lacking(
                f"it has {found.get(what, 0):g} {what}s, cluster.{key} {fewest} needs {wanted}: the "
                "training would wait for ever, unless nodes join"
            )


def _ask(cluster: ClusterConfig, address: str) -> str:
    """What a cluster that takes jobs says of itself."""
    from scadm.cluster.follow import client_at

    client = client_at(address)
    # The list of nodes is Ray's state API, for which the jobs' client has the address and the token.
    answer = client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")
    answer.raise_for_status()
    nodes = [node for node in answer.json()["data"]["result"]["result"] if node["state"] == "ALIVE"]
    found = {what: sum(node["resources_total"].get(what, 0) for node in nodes) for what in ("CPU", "GPU")}
    _require_resources(cluster, found)
    there = client._do_request("GET", "/api/version").json()["ray_version"]
    other = "" if there == ray.__version__ else f" (here {ray.__version__}: install the same on both)"
    size = f"{len(nodes)} node(s), {found['CPU']:g} logical CPUs, {found['GPU']:g} GPUs"
    return f"Ray {there}{other}, cluster {address}: it takes jobs; {size}"


def _try(cluster: ClusterConfig, places: Mapping[str, str]) -> str:
    if (address := jobs.launch_address(cluster)) is not None:
        return _ask(cluster, address)
    with connect(cluster):
        require_reachable(places)
        found = ray.cluster_resources()
        _require_resources(cluster, found)
        ray.get(ray.remote(_version).remote())
        nodes = sum(node["Alive"] for node in ray.nodes())
        whose = f"cluster {cluster.address or os.environ['RAY_ADDRESS']}" if is_remote(cluster) else "a private Ray"
    return (
        f"Ray {ray.__version__}, {whose}: a task ran; {nodes} node(s), "
        f"{found.get('CPU', 0):g} logical CPUs, {found.get('GPU', 0):g} GPUs"
    )


def main() -> None:
    """Try what the argument asks for; the last line of stdout, or of stderr, is the answer."""
    request = json.loads(sys.argv[1])
    try:
        print(_try(ClusterConfig.model_validate(request["cluster"]), request["places"]), flush=True)
    except Lacking as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(_LACKING)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
