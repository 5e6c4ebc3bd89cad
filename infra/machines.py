"""Two machines on one: network namespaces with addresses of their own, or, without the rights, two loopback addresses.

A machine of a namespace has its own host name, processes, network card, shared memory and home, and does not see the
other's files nor the project's. No address of it is routed anywhere: the three networks (the hub's, where the servers
and the client are, and the two machines') are joined by a bridge that ends with them. All of them hang on one process,
the first of the hub's process namespace: when it ends, the kernel ends the rest.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

_NAMESPACES = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
_NETWORK = "10.77.0"
_PATIENCE = 10.0  # seconds for a namespace to come up

# Waits for its network card, which only the hub can put in; then becomes a machine of its own, and the command.
_BECOME = """
set -e
read -r _
hostname "$1"; own=$2; me=$3; hosts=$4; all=$5; shift 5
mount --bind "$hosts" /etc/hosts
mount -t tmpfs none /dev/shm
mount --bind "$own" "$me"
mount -t tmpfs none "$all"
while [ "$1" != -- ]; do mount -t tmpfs none "$1"; shift; done
shift
cd "$me"
exec "$@"
"""


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    folder: Path
    """Its files, as the hub sees them."""
    home: Path
    """The same, as the machine itself sees them."""


class Network(Protocol):
    """Where the machines are, and the hub with the servers."""

    hub: str
    """The hub's address."""
    machines: list[Machine]

    def describe(self) -> str: ...

    def ports(self, count: int) -> list[int]:
        """Ports that are free on every machine."""
        ...

    def start(self, machine: Machine, command: Sequence[str], env: Mapping[str, str], log: IO[str]) -> subprocess.Popen:
        """Start a command on a machine, in its home, in a session of its own."""
        ...


def entering() -> list[str] | None:
    """What runs a command as the first process of a hub; None where this machine or its user may not have one.

    Root makes namespaces as it is, anybody else within a namespace of users where the kernel allows that.
    """
    if sys.platform != "linux" or any(shutil.which(tool) is None for tool in ("ip", "unshare", "nsenter", "mount")):
        return None
    for extra in [[], ["--map-root-user"]] if os.geteuid() == 0 else [["--map-root-user"]]:
        prefix = ["unshare", *extra, *_NAMESPACES]
        # All that will be needed is tried, a namespace within the namespace included.
        attempt = (
            "ip link set lo up && ip link add name b type bridge && ip link add name v type veth peer name w && "
            f"unshare {' '.join(_NAMESPACES)} sh -c 'hostname t && mount -t tmpfs none /dev/shm'"
        )
        if subprocess.run([*prefix, "sh", "-c", attempt], capture_output=True, check=False).returncode == 0:
            return prefix
    return None


class Namespaces:
    """The machines of a hub that this process is the first of (see `entering`)."""

    def __init__(self, work: Path, hidden: Sequence[Path]) -> None:
        """`work` is the script's folder; `hidden` are folders that no machine may see."""
        self.hub = f"{_NETWORK}.1"
        self._all, self._me, self._hosts = work / "machines", work / "me", work / "hosts"
        self._hidden = [str(folder) for folder in hidden if folder.is_dir()]
        self.machines = [Machine(f"node{i}", f"{_NETWORK}.{10 + i}", self._all / f"node{i}", self._me) for i in (1, 2)]
        self._me.mkdir()
        for machine in self.machines:
            machine.folder.mkdir(parents=True)
        names = [("127.0.0.1", "localhost"), (self.hub, "hub"), *((m.address, m.name) for m in self.machines)]
        self._hosts.write_text("".join(f"{address} {name}\n" for address, name in names))
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "name", "bridge", "type", "bridge")
        _ip("addr", "add", f"{self.hub}/24", "dev", "bridge")
        _ip("link", "set", "bridge", "up")

    def describe(self) -> str:
        each = ", ".join(f"{m.name} {m.address}" for m in self.machines)
        return f"network namespaces with processes, names and files of their own ({each}); servers at {self.hub}"

    def ports(self, count: int) -> list[int]:
        return list(range(20_000, 20_000 + count))  # nobody else is on these machines

    def start(self, machine: Machine, command: Sequence[str], env: Mapping[str, str], log: IO[str]) -> subprocess.Popen:
        arguments = [machine.name, machine.folder, machine.home, self._hosts, self._all, *self._hidden, "--", *command]
        process = subprocess.Popen(
            ["unshare", *_NAMESPACES, "sh", "-c", _BECOME, "sh", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(env),
            text=True,
            start_new_session=True,
        )
        _wait_for_network(process)
        pid, here = str(process.pid), f"to-{machine.name}"
        _ip("link", "add", "name", here, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _ip("link", "set", here, "master", "bridge", "up")
        for words in (("addr", "add", f"{machine.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                      ("link", "set", "lo", "up")):  # fmt: skip
            _ip(*words, within=pid)
        assert process.stdin is not None
        process.stdin.write("ready\n")
        process.stdin.flush()
        return process


class Loopback:
    """No machines of their own, but two addresses of this one; files, processes and host name are shared."""

    def __init__(self, work: Path) -> None:
        self.hub = "127.0.0.1"
        self.machines = [
            # From 127.0.0.2 on: to a node at 127.0.0.1 Ray gives the outer address of this machine instead.
            Machine(f"node{i}", f"127.0.0.{1 + i}", folder, folder)
            for i, folder in ((i, work / "machines" / f"node{i}") for i in (1, 2))
        ]
        for machine in self.machines:
            machine.folder.mkdir(parents=True)

    def describe(self) -> str:
        each = ", ".join(f"{m.name} {m.address}" for m in self.machines)
        return f"two addresses of this machine ({each}), with its name, processes and files; servers at {self.hub}"

    def ports(self, count: int) -> list[int]:
        sockets = [socket.socket() for _ in range(count)]
        try:
            for each in sockets:
                each.bind(("0.0.0.0", 0))
            return [each.getsockname()[1] for each in sockets]
        finally:
            for each in sockets:
                each.close()

    def start(self, machine: Machine, command: Sequence[str], env: Mapping[str, str], log: IO[str]) -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=machine.folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True,
            start_new_session=True,
        )  # fmt: skip


def _ip(*words: str, within: str | None = None) -> None:
    """Run `ip`, here or in the network of a process. Raises RuntimeError with its own words if it fails."""
    command = [*(["nsenter", "--net", "--target", within] if within else []), "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")


def _wait_for_network(process: subprocess.Popen) -> None:
    """Return when a started `unshare` has its own network. Before that, its id still means the hub's."""
    end, own = time.monotonic() + _PATIENCE, Path("/proc/self/ns/net").readlink()
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{process.pid}/ns/net").readlink() != own:
                return
        time.sleep(0.02)
    raise RuntimeError(f"no network of its own within {_PATIENCE:g} s; `unshare` ended with {process.poll()}")
