"""A Ray head, and further nodes, on this machine, each in a process group of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from projects import Project, marked, wait_for


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


class Nodes:
    """A cluster of several Ray nodes on this machine: a head without CPUs, and nodes of one CPU that come and go."""

    def __init__(self, project: Project, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        (folder / "token").write_text("0" * 64)
        self._token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        self._project = Project(project.folder)
        self.names: list[str] = []
        """Of the nodes that were not killed, the oldest first."""
        self._started = 0

    def __enter__(self) -> "Nodes":
        self._start("head", f"--port={self._port}", "--head", "--num-cpus=0", "--include-dashboard=false")
        return self

    def __exit__(self, *_: object) -> None:
        for pid in marked(self._project.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for("the end of the nodes", lambda: not marked(self._project.mark), 60)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def processes(self, named: str) -> list[int]:
        """What runs on the nodes; those whose command holds `named`."""
        return [pid for pid, command in marked(self._project.mark).items() if named in command]

    def client(self, project: Project) -> dict[str, str]:
        """What a driver finds in its environment."""
        return self._token | {"RAY_ADDRESS": f"127.0.0.1:{self._port}", "SCADM_HOME": str(project.folder)}

    def add(self) -> str:
        self._started += 1
        name = f"node{self._started}"
        self._start(name, f"--address=127.0.0.1:{self._port}", "--num-cpus=1")
        self.names.append(name)
        return name

    def kill(self, name: str) -> None:
        """The node and all that runs on it, at once, as when its machine is lost."""
        for pid in marked(self._mark(name)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.names.remove(name)

    def drain(self, name: str, seconds: int) -> None:
        """Give notice, as before a spot machine is taken back."""
        program = (
            f"import ray; ray.init('127.0.0.1:{self._port}', log_to_driver=False); "
            f"print(*(n['NodeID'] for n in ray.nodes() if n['NodeName'] == '{name}' and n['Alive']))"
        )
        id = self._project.run(sys.executable, "-c", program, **self._token).stdout.split()[-1]
        notice = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test's notice")
        address = ("--address", f"127.0.0.1:{self._port}")
        deadline = ("--deadline-remaining-seconds", str(seconds))
        self._project.run("ray", "drain-node", *address, "--node-id", id, *notice, *deadline, **self._token)

    def _mark(self, name: str) -> str:
        return f"{self._project.mark}-{name}."

    def _start(self, name: str, *options: str) -> None:
        self._project.variables = self._token | {"SCADM_TEST_NODE": self._mark(name)}
        # Each node unpacks a job's code into a folder of its own, as on machines of their own. In one that they share,
        # a node that joins unpacks it anew, and deletes the folder that the others' processes are in.
        temporary = Path(self._temporary) / str(self._started)
        log = self._folder / f"{name}.log"
        self._project.start(
            *("ray", "start", "--block", "--node-ip-address=127.0.0.1", f"--node-name={name}", *options),
            *(f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"),
            f"--temp-dir={temporary}",
            log=log,
        )
        wait_for(f"the Ray node {name}", lambda: "Ray runtime started" in log.read_text(), 120)


def submit_when_ready(project: Project, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a client's command; a head that has just started takes some seconds before it accepts jobs, and says so."""
    for _ in range(20):
        done = project.run(*command, check=False, **env)
        if "No available agent" not in done.stdout:
            break
        time.sleep(3)
    return done
