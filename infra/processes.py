"""The end of everything that a script has started, whatever its children have become meanwhile."""

import ctypes
import signal
import sys
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 10.0  # seconds until a killed process must be gone


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants that lose theirs, so that `end_descendants` finds them.

    On Linux only: elsewhere a process that has left its parent, as daemons do, is not found.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot adopt its orphaned descendants")


def end_descendants() -> list[int]:
    """Kill every descendant of this process, by its id, until there is none; returns those that would not go."""
    me, end = psutil.Process(), time.monotonic() + _PATIENCE
    while (found := me.children(recursive=True)) and time.monotonic() < end:
        for process in found:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=1)  # those that have been adopted are waited for by nobody else
    return [process.pid for process in found]
