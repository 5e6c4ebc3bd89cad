"""Progress bars with rate and time left, readable on a terminal and in a log."""

import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm


def bar(total: int, what: str, unit: str, initial: int = 0) -> "tqdm[Any]":
    """A bar on stderr. Off a terminal it is rewritten only every ten seconds, so that logs stay short."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=f" {unit}",
        mininterval=0.2 if terminal else 10.0,
        dynamic_ncols=terminal,
        ncols=None if terminal else 100,
        unit_scale=total > 100_000,
    )


class Transfer:
    """A bar for each file that is fetched, in bytes."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, name: str, total: int, done: int) -> None:
        """A transfer of `total` bytes begins, or begins again, with `done` of them there."""
        if self._bar is None:
            self._bar = bar(total, name, "bytes", done)
        self._bar.reset(total or None)
        self._bar.initial = self._bar.n = done
        self._bar.refresh()

    def advance(self, count: int) -> None:
        assert self._bar is not None
        self._bar.update(count)
