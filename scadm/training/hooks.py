"""What a run tells the outside, and what the outside wishes; who that is, is not the loop's affair."""

from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scadm.training.journal import Row


class Progress(Protocol):
    def update(self, n: float = 1) -> Any: ...

    def set_postfix_str(self, s: str) -> None: ...

    def close(self) -> None: ...


class Wish(IntEnum):
    """What a rank has heard from outside; all ranks then do the most that any of them has, at the same step."""

    NOTHING = 0
    LOOK = 1
    """Ask whether a machine is about to be lost."""
    STOP = 2
    """Write a checkpoint, and end."""


class Hooks(Protocol):
    """What a run tells the outside. Only `report`, `wish` and `losing_machine` are called on every rank.

    They are at the same steps.
    """

    def say(self, text: str) -> None: ...

    def progress(self, total: int, initial: int) -> Progress: ...

    def log(self, row: Row) -> None:
        """What is new in the run's journal."""
        ...

    def catch_up(self, rows: list[Row]) -> None:
        """What is in the journal already, as a run is resumed."""
        ...

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None: ...

    def report(self, metrics: dict[str, float]) -> None: ...

    def wish(self) -> Wish:
        """Asked on every rank after each step."""
        ...

    def losing_machine(self) -> bool:
        """Whether one is about to be lost, and a checkpoint should be written first; once for each."""
        ...
