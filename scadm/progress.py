"""Progress bars with rate and time left, readable on a terminal and in a log."""

import sys
from typing import Any

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
