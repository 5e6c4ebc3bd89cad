"""What the benchmarks need to know of the machine."""

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch


def describe(device: torch.device) -> str:
    """The device's name, for a table's caption."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device) -> float:
    """GFLOP/s of a large bf16 matrix product, the best of ten: what the device can do at most."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(11):
        synchronise(device)
        since = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        seconds.append(time.perf_counter() - since)
    return 2 * size**3 / min(seconds[1:]) / 1e9


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Memory that `call` needs at its peak beyond what was taken before; None where the system cannot tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not Path("/proc/self/clear_refs").is_file():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, or `call` would find it there
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the process's peak so far
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)
