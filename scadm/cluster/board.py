"""What rank 0 says while it trains, carried to the driver's terminal; and why a training must end.

Ray can forward the output of its workers, but mixes it with its own and breaks bars up; so a small actor holds the
newest state, and a thread of the driver shows it. The actor outlives the workers, and so their restarts.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scadm.progress import bar
from scadm.stopping import Stop

_EVERY = 0.5  # seconds between two looks at the board
_PATIENCE = 5.0  # seconds for an answer of the board
_SHOWS_EVERY = 0.25  # seconds between two notes of where the training is: a step may take less


class State(NamedTuple):
    total: int
    done: int
    text: str
    lines: list[str]


@ray.remote(num_cpus=0)
class Board:
    def __init__(self) -> None:
        self.total, self.done, self.text = 0, 0, ""
        self.lines: list[str] = []
        self.reason: str | None = None
        self.stops = False

    def stop(self) -> None:
        """The user wants the training to end after a checkpoint."""
        self.stops = True

    def stopping(self) -> bool:
        return self.stops

    def refuse(self, reason: str) -> None:
        """A rank has met an error that no restart mends; the first one said is kept."""
        self.reason = self.reason or reason

    def refusal(self) -> str | None:
        return self.reason

    def say(self, text: str) -> None:
        self.lines.append(text)

    def show(self, total: int, done: int, text: str) -> None:
        self.total, self.done, self.text = total, done, text

    def read(self, lines_seen: int) -> State:
        return State(self.total, self.done, self.text, self.lines[lines_seen:])


class Remote:
    """Rank 0's end: a bar that writes on the board."""

    def __init__(self, board: Any, total: int, initial: int) -> None:
        self.board, self.total, self.done, self.text = board, total, initial, ""
        self._show()

    def update(self, n: float = 1) -> None:
        self.done += int(n)
        if time.monotonic() >= self._next_show:
            self._show()

    def set_postfix_str(self, s: str) -> None:
        self.text = s

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        self.board.show.remote(self.total, self.done, self.text)
        self._next_show = time.monotonic() + _SHOWS_EVERY


@contextmanager
def shown(what: str, stop: Stop) -> Iterator[Any]:
    """A board that is shown on this process's terminal meanwhile, and that tells the workers when to stop."""
    # Where the driver is: another node may be lost, and the training goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = Board.options(scheduling_strategy=here).remote()
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(board, what, stop, ended), daemon=True)
    thread.start()
    try:
        yield board
    finally:
        ended.set()
        thread.join(timeout=10)


def _show(board: Any, what: str, stop: Stop, ended: threading.Event) -> None:
    progress, seen, told = None, 0, False
    while True:
        last = ended.wait(_EVERY)  # look once more after the end, for what was said last
        try:
            if stop.asked.is_set() and not told:
                board.stop.remote()
                told = True
            state: State = ray.get(board.read.remote(seen), timeout=_PATIENCE)
        except GetTimeoutError:  # a machine that is busy: the next look may be answered, and a stop must be told
            if last:
                break
            continue
        except RayError:
            break
        for line in state.lines:
            print(line, flush=True)
        seen += len(state.lines)
        if state.total:
            if progress is None:
                progress = bar(state.total, what, "steps", initial=state.done)
            if progress.total != state.total or state.done < progress.n:  # restarted from a checkpoint
                progress.reset(state.total)
            progress.set_postfix_str(state.text, refresh=False)
            progress.update(state.done - progress.n)
        if last:
            break
    if progress is not None:
        progress.close()
