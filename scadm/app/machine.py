"""What this process may use of the machine: memory and cores, within the limits of its container."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY = (  # limit, use, and the part of the use that the kernel gives back on demand; of cgroups v2 and v1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cgroups(root: Path = _CGROUPS, own: Path = _OWN) -> Iterator[Path]:
    """This process's control groups, each from its own up to the root: a limit anywhere on the way counts.

    In a container the named path may be the host's and not be there; the root is then the container's own group.
    """
    for line in own.read_text().splitlines() if own.is_file() else []:  # no such file: not Linux
        _, controllers, path = line.split(":", 2)
        top = root / controllers
        inner = Path(path.lstrip("/"))
        yield from (top / folder for folder in (inner, *inner.parents) if (top / folder).is_dir())


def _room(group: Path) -> Iterator[int]:
    """Bytes that a control group may still take, if it has a limit."""
    for limit, use, spare in _MEMORY:
        if (group / limit).is_file() and (most := (group / limit).read_text().strip()) != "max":
            rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield int(most) - int((group / use).read_text()) + int(dict(rows).get(spare, 0))


def free_memory(groups: list[Path]) -> int:
    """Bytes that can be had now."""
    return max(0, min([psutil.virtual_memory().available, *(room for group in groups for room in _room(group))]))


def _quota(group: Path) -> Iterator[float]:
    """Cores' worth of time that a control group gets, if that is limited."""
    if (group / "cpu.max").is_file():
        share, period = (group / "cpu.max").read_text().split()
    elif (group / "cpu.cfs_quota_us").is_file():
        share, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    else:
        return
    if share not in ("max", "-1"):
        yield int(share) / int(period)


def cores(groups: list[Path]) -> int:
    """Cores that this process may run on, at least 1."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([mine, *(share for group in groups for share in _quota(group))])))
