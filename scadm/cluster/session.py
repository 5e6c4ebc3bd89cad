"""The connection to Ray: a private one on this machine, or a cluster; the one place that sets a runtime environment."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray

from scadm.config import ClusterConfig


def is_remote(cluster: ClusterConfig) -> bool:
    """Whether the work goes to a cluster that was started by someone else."""
    return cluster.address is not None or "RAY_ADDRESS" in os.environ


def require_reachable(places: Mapping[str, str]) -> None:
    """Raise ValueError if the cluster has nodes on other machines and one of `places` is local to this one.

    `places` are addresses by what they are for. A worker elsewhere would write into a folder that nobody looks at.
    """
    here = socket.gethostname()
    others = sorted({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]} - {here})
    local = {what: place for what, place in places.items() if "://" not in place or place.startswith("sqlite:")}
    if others and local:
        raise ValueError(
            f"the cluster has nodes on {', '.join(others)} beside {here}, which cannot reach "
            + ", ".join(f"{what} {place}" for what, place in local.items())
            + ". Use addresses that every node reaches (storage.root: s3://..., tracking.uri: http://...), or a "
            "cluster on this machine alone."
        )


@contextmanager
def connect(cluster: ClusterConfig) -> Iterator[None]:
    """Be connected to Ray, and leave it (ending a private one) whatever happens."""
    if is_remote(cluster):
        # In a job that was submitted with a working directory, the job's runtime environment already holds the code.
        # Else this folder is uploaded, without what .gitignore and .rayignore name.
        in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        ray.init(
            address=cluster.address or "auto",
            runtime_env=None if in_job else {"working_dir": "."},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
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
