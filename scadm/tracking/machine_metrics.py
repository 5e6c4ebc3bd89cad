"""Processors, memory, disk, network and GPUs of a node, measured while a training runs there.

MLflow's own monitor is not used: it ends for good at the first call that fails, asks the server for the run before
each measurement, and its end waits for the server. The names are the same, so that MLflow shows them in their place.
"""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from scadm.redaction import brief
from scadm.tracking.run_logger import RunLogger, said_here
from scadm.tracking.store import Tracked

_GPU_QUERY = ("index", "utilization.gpu", "memory.used", "memory.total", "power.draw")
_MEBIBYTE, _MEGABYTE = 2**20, 1e6
_CLOSING = 5.0  # seconds


@contextmanager
def machine_metrics(
    tracked: Tracked, node: str, every: float, say: Callable[[str], None] = said_here
) -> Iterator[None]:
    """Measure this node every so many seconds (0: not at all) into `system/<node>/...`, until the block's end.

    Nothing here raises, and the block's end waits some seconds at most. The step is the time in seconds since 1970, so
    that a training which was restarted goes on in the same curve.
    """
    if every <= 0:
        yield
        return
    over = threading.Event()
    prefix = f"system/{re.sub(r'[^A-Za-z0-9_.-]', '_', node)}/"
    # Rank 0's logger says what there is to say about the store.
    logger = RunLogger(tracked, say=lambda _: None, repeats=False)

    def watch() -> None:
        machine = _Machine(node, say)
        while not over.wait(every):
            found = machine.measure()
            logger.log(int(time.time()), {prefix + name: value for name, value in found.items()})

    thread = threading.Thread(target=watch, name="machine-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_CLOSING)
        logger.close(_CLOSING)


class _Machine:
    """What is measured as a difference starts with this object."""

    def __init__(self, node: str, say: Callable[[str], None]) -> None:
        self._node, self._say = node, say
        self._parts: dict[str, Callable[[], dict[str, float]]] = {
            "processors": lambda: {"cpu_utilization_percentage": psutil.cpu_percent()},
            "memory": _memory,
            "disk": _disk,
            "network": self._network,
            "GPUs": self._gpus,
        }
        self._said: set[str] = set()
        self._program = shutil.which("nvidia-smi")
        self._counted: tuple[int, int] | None = None
        self.measure()  # the first answer about processors means nothing

    def measure(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, part in self._parts.items():
            try:
                found |= part()
            except Exception as error:  # whatever this system does not tell: the training matters more
                if name not in self._said:
                    self._said.add(name)
                    what = f"the {name} of node {self._node} cannot be measured: {brief(error)}"
                    with suppress(Exception):  # who listens may be gone
                        self._say(f"warning: {what}. Going on without.")
        return found

    def _network(self) -> dict[str, float]:
        """Since the run began here."""
        now = psutil.net_io_counters()
        if now is None:
            return {}
        first = self._counted = self._counted or (now.bytes_recv, now.bytes_sent)
        return {
            "network_receive_megabytes": (now.bytes_recv - first[0]) / _MEGABYTE,
            "network_transmit_megabytes": (now.bytes_sent - first[1]) / _MEGABYTE,
        }

    def _gpus(self) -> dict[str, float]:
        if self._program is None:
            return {}
        command = [self._program, f"--query-gpu={','.join(_GPU_QUERY)}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        if done.returncode != 0:  # the program without its driver
            self._program = None
            return {}
        return gpu_metrics(done.stdout)


def _memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
    }


def _disk() -> dict[str, float]:
    disk = psutil.disk_usage(os.sep)
    return {"disk_usage_megabytes": disk.used / _MEGABYTE, "disk_usage_percentage": disk.percent}


def gpu_metrics(table: str) -> dict[str, float]:
    """From the answer of `nvidia-smi --query-gpu=... --format=csv,...`; what a GPU does not tell is left out."""
    found: dict[str, float] = {}
    for line in table.splitlines():
        index, *values = (value.strip() for value in line.split(","))
        busy, used, total, watts = (float(value) if re.fullmatch(r"[\d.]+", value) else None for value in values)
        told = {
            "utilization_percentage": busy,
            "memory_usage_megabytes": None if used is None else used * _MEBIBYTE / _MEGABYTE,
            "memory_usage_percentage": 100 * used / total if used is not None and total else None,
            "power_usage_watts": watts,
        }
        found |= {f"gpu_{index}_{name}": value for name, value in told.items() if value is not None}
    return found
