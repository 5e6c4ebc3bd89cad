"""Ending on request: SIGTERM and Ctrl-C ask for an end that loses nothing; a second one ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The user, or who manages this machine, has asked for the end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum
        """The exit status that says so."""


class Stop:
    """Whether the end was asked for, and by which signal."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.signum = 0

    def require_end(self) -> None:
        """Raise Stopped if the end was asked for."""
        if self.asked.is_set():
            raise Stopped(self.signum)


@contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Stop]:
    """SIGTERM and SIGINT set `asked` meanwhile; a second one raises Stopped. Outside of the main thread: nothing."""
    stop = Stop()

    def heard(signum: int, _: FrameType | None) -> None:
        if stop.asked.is_set():
            raise Stopped(signum)
        stop.signum = signum
        stop.asked.set()
        say(f"{signal.Signals(signum).name}: stopping after a checkpoint of this step; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
