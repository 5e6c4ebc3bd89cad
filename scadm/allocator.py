"""What this process does with memory that it has freed."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE = 32 * 1024**2  # the highest threshold that glibc documents


def keep_freed_memory() -> None:
    """Keep it for the next allocation, where glibc would give large blocks back to the system at once.

    A small network's activations are such blocks: fetching them anew from the system, page by page, costs its training
    on a CPU a third of the time. Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, 2**30)
