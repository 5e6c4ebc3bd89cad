"""A Ray head and an MLflow server on this machine, each in a process group of its own."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from projects import Project, wait_for


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _end(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Head:
    address: str
    """Where it takes jobs."""
    token: Mapping[str, str]
    """What a client of it needs in its environment."""


@contextmanager
def ray_head(project: Project, folder: Path, home: str = "", cpus: int = 2) -> Iterator[Head]:
    """A head that takes jobs, with a token of its own; `home` is its SCADM_HOME.

    It is the project's code that it runs with, and the guard of the tests. Its files lie in a folder with a short name,
    because its sockets do. Meanwhile this process's environment holds the token.
    """
    (folder / "token").write_text("0" * 64)
    # The default token lies in the user's home and may belong to another Ray.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    port, dashboard, agent = (free_port() for _ in range(3))
    before = {name: os.environ.get(name) for name in (*token, "SCADM_HOME", "TMPDIR")}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:
        os.environ.update(token | {"TMPDIR": short})
        os.environ.pop("SCADM_HOME", None)
        if home:
            os.environ["SCADM_HOME"] = home
        try:
            # --block keeps the head in this process group, so that ending it ends nobody else's Ray.
            head = project.start(
                *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"),
                *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--num-cpus={cpus}"),
                *("--object-store-memory=200000000", f"--temp-dir={short}"),
                log=folder / "head.log",
            )
            # Clients know nothing of the head's own variables.
            os.environ.pop("SCADM_HOME", None)
            try:
                started = folder / "head.log"
                wait_for("the Ray head", lambda: "Ray runtime started" in started.read_text(), 90)
                yield Head(f"http://127.0.0.1:{dashboard}", token)
            finally:
                _end(head)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def mlflow_server(project: Project, folder: Path) -> Iterator[str]:
    """A tracking server; yields its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = project.start(
        *("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"),
        log=folder / "mlflow.log",
    )

    def answers() -> bool:
        assert server.poll() is None, (folder / "mlflow.log").read_text()[-3000:]
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_for("the MLflow server", answers, 90)
        yield address
    finally:
        _end(server)


def submit_when_ready(project: Project, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a client's command; a head that has just started takes some seconds before it accepts jobs, and says so."""
    for _ in range(20):
        done = project.run(*command, check=False, **env)
        if "No available agent" not in done.stdout:
            break
        time.sleep(3)
    return done
