"""One training on a cluster of two nodes, from an empty folder to what it has left in S3 and in MLflow."""

import json
import os
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from infra import environment, findings, project
from infra.machines import Machine, Network
from scadm.config import load_params

_BUCKET = "sca-dm"
_STORAGE = f"s3://{_BUCKET}/storage"
_WORKERS = 2
_SHORT_STEPS = 20
_ATTEMPTS = 5  # to submit
_PATIENCE = 180.0  # seconds for a server or a node to come up; they take 5 to 15
_CPUS = 1  # of a node: two workers of one CPU each do not fit on one
_OBJECT_STORE = 100 * 1024**2
_TAIL = 40  # lines of a log that a failure shows


class Failed(Exception):
    """What was expected and not found, with the end of the log that tells why."""


def tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL:] if log.is_file() else []
    return "".join(f"\n  | {line}" for line in lines)


class Trial:
    def __init__(self, work: Path, *, short: bool, project: Path | None) -> None:
        self.work, self.short, self.given = work, short, project
        self.logs, self.folder, self.token = work / "logs", work / "project", work / "token"
        for folder in (self.logs, self.folder):
            folder.mkdir()
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32))
        self.since = time.monotonic()
        self._running: dict[str, tuple[subprocess.Popen, Path]] = {}

    def elapsed(self) -> float:
        return time.monotonic() - self.since

    def say(self, text: str) -> None:
        print(f"[{self.elapsed():6.1f} s] {text}", flush=True)

    def private_folders(self) -> list[Path]:
        """What no node may see: the copy of the project, and every other one that it could be mistaken for."""
        return [self.folder, *project.folders_of_code_and_data()]

    def run(self, network: Network) -> None:
        """Raises Failed unless everything holds."""
        self.say(f"two machines: {network.describe()}")
        self._prepare()
        ports = iter(network.ports(20))
        tracking = self._mlflow(network, next(ports))
        endpoint = self._s3(network, next(ports))
        s3 = environment.s3(endpoint)
        os.environ.update(s3)  # this process looks into the store too
        bucket, _ = fs.FileSystem.from_uri(f"s3://{_BUCKET}?allow_bucket_creation=true")
        bucket.create_dir(_BUCKET)
        self.say(f"an empty bucket {_BUCKET} in an S3 store at {endpoint}, an MLflow server at {tracking}")
        project.change(self.folder, {"storage.root": _STORAGE, "tracking.uri": tracking, "cluster.workers": _WORKERS})
        self._command("scadm", "share", "train")
        self.say("what the training reads is in the S3 store: `scadm share train`")
        dashboard = self._nodes(network, ports, s3)
        self._submit(dashboard)
        self._judge(network, tracking)
        self.say(f"everything holds: two nodes, one training, {self.elapsed():.0f} s in all")

    def _prepare(self) -> None:
        project.copy(self.given or project.ROOT, self.folder)
        profile = "smoke" if self.short else "quickstart"
        if self.given is None:
            self._command("scadm", "profile", profile)
        if self.short:
            project.change(self.folder, {"training.steps": _SHORT_STEPS})
        if self.given is not None:
            project.copy_outs(self.given, self.folder)
            self.say(f"the project's parameters and data are those of {self.given}")
            return
        self._command("git", "init", "-q")
        self._command("git", "add", "-A")
        self._command("git", "commit", "-qm", f"the profile {profile}")
        self.say(f"making the data of profile {profile} on this machine: `dvc repro latents`")
        self._command("dvc", "repro", "latents")
        self.say("the data is made")

    def _command(self, *words: str) -> None:
        """Run a command of the project to its end."""
        log = self.logs / "project.log"
        with log.open("a") as file:
            done = subprocess.run(
                words,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                check=False,
            )
        if done.returncode != 0:
            raise Failed(f"`{' '.join(words)}` ended with {done.returncode}:{tail(log)}")

    def _server(self, name: str, command: list[str], url: str) -> None:
        """Start a server on the hub and wait until it answers."""
        log = self.logs / f"{name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=self.work, stdin=subprocess.DEVNULL, stdout=file,
                                       stderr=file, start_new_session=True)  # fmt: skip
        self._running[name] = process, log
        self._wait(f"{name} answers at {url}", lambda: self._get(url) is not None, log)

    def _mlflow(self, network: Network, port: int) -> str:
        store, url = self.work / "mlflow", f"http://{network.hub}:{port}"
        store.mkdir()
        command = ["mlflow", "server", "--host", network.hub, "--port", str(port), "--workers", "1",
                   "--allowed-hosts", f"{network.hub}:{port}", "--backend-store-uri", f"sqlite:///{store}/mlflow.db",
                   "--artifacts-destination", str(store / "artifacts")]  # fmt: skip
        self._server("mlflow", command, f"{url}/health")
        return url

    def _s3(self, network: Network, port: int) -> str:
        url = f"http://{network.hub}:{port}"
        command = ["moto_server", "-H", network.hub, "-p", str(port)]
        self._server("s3", command, f"{url}/moto-api/")
        return url

    def _nodes(self, network: Network, ports: Any, s3: Mapping[str, str]) -> str:
        head, second = network.machines
        gcs, web = next(ports), next(ports)
        self._node(network, head, ["--head", "--port", str(gcs), "--dashboard-host", head.address,
                                   "--dashboard-port", str(web), "--include-dashboard", "true"], ports, s3)  # fmt: skip
        dashboard = f"http://{head.address}:{web}"
        self._wait("the head's dashboard answers", lambda: self._get(f"{dashboard}/api/version") is not None,
                   self.logs / f"{head.name}.log")  # fmt: skip
        self.say(f"{head.name}, the head, is up at {head.address}")
        self._node(network, second, ["--address", f"{head.address}:{gcs}"], ports, s3)
        addresses = {machine.address for machine in network.machines}
        self._wait(f"the nodes at {addresses} are alive", lambda: self._alive(dashboard) == addresses,
                   self.logs / f"{second.name}.log")  # fmt: skip
        self.say(f"{second.name} at {second.address} has joined it")
        return dashboard

    def _node(self, network: Network, machine: Machine, role: list[str], ports: Any, s3: Mapping[str, str]) -> None:
        log = self.logs / f"{machine.name}.log"
        words = ["ray", "start", *role, "--node-ip-address", machine.address, "--num-cpus", str(_CPUS),
                 "--object-store-memory", str(_OBJECT_STORE), "--temp-dir", str(machine.home / "ray"),
                 "--disable-usage-stats", "--block"]  # fmt: skip
        for name in ("node-manager", "object-manager", "runtime-env-agent", "metrics-export",
                     "dashboard-agent-listen", "dashboard-agent-grpc"):  # fmt: skip
            words += [f"--{name}-port", str(next(ports))]
        shutil.copy(self.token, machine.folder / "token")  # its own copy, as on a machine of its own
        env = environment.clean(machine.home, os.environ) | dict(s3) | environment.token(machine.home / "token")
        with log.open("w") as file:
            self._running[machine.name] = network.start(machine, words, env, file), log

    def _alive(self, dashboard: str) -> set[str]:
        """Addresses of the cluster's living nodes."""
        answer = self._get(f"{dashboard}/api/v0/nodes") or b"{}"
        rows = json.loads(answer).get("data", {}).get("result", {}).get("result", [])
        return {row["node_ip"] for row in rows if row["state"] == "ALIVE"}

    def _get(self, url: str) -> bytes | None:
        """What a server of the trial answers; None while it does not."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token.read_text()}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as answer:
                return answer.read()
        except OSError:
            return None

    def _wait(self, what: str, condition: Callable[[], bool], log: Path) -> None:
        """Return when a condition holds. Raises Failed, with the end of `log`, if it does not come to that."""
        end = time.monotonic() + _PATIENCE
        while not condition():
            for name, (process, its) in self._running.items():
                if process.poll() is not None:
                    raise Failed(f"{name} has ended with {process.returncode}:{tail(its)}")
            if time.monotonic() > end:
                raise Failed(f"within {_PATIENCE:g} s it did not come true that {what}:{tail(log)}")
            time.sleep(0.2)

    def _submit(self, dashboard: str) -> None:
        words = ["ray", "job", "submit", "--address", dashboard, "--working-dir", "."]
        words += ["--", "python", "-m", "pipeline.train"]
        self.say(f"`{' '.join(words)}`")
        for _ in range(_ATTEMPTS):
            status, said = self._follow(words)
            if status == 0:
                self.say("the job has succeeded")
                return
            if "No available agent" not in said:  # of a head that has only just started
                break
            time.sleep(3)
        raise Failed(f"the job ended with {status}, see above")

    def _follow(self, words: list[str]) -> tuple[int, str]:
        """Run a command in the project and show what it says; returns its status and all of that."""
        said = []
        with (
            (self.logs / "job.log").open("a") as file,
            subprocess.Popen(
                words,
                cwd=self.folder,
                env=os.environ | environment.token(self.token),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                file.write(line)
                file.flush()
                print(f"  | {line.rstrip()}", flush=True)
        return process.returncode, "".join(said)

    def _judge(self, network: Network, tracking: str) -> None:
        params = load_params(self.folder / "params.yaml")
        try:
            ranks = {machine.name: findings.ranks_of(machine.folder / "ray") for machine in network.machines}
            findings.require_spread(ranks, _WORKERS)
            for name, found in ranks.items():
                self.say(f"{name} had the training worker(s) of rank {', '.join(map(str, sorted(found)))}")
            run, files = findings.checkpoint(_STORAGE)
            self.say(f"{run.root}/final is complete, and every file as it was written:")
            for name, size in files.items():
                print(f"  {size:12,d}  {name}", flush=True)
            self.say(f"the result that names it is of job {findings.handed_over(_STORAGE, run)}")
            steps = findings.expected_steps(params.training.steps, params.monitoring)
            self.say(f"MLflow: {findings.tracked(tracking, run, steps)}")
        except ValueError as error:
            raise Failed(f"{error} What the job said stands above.") from error
