"""What a run tells the outside; who listens is not the loop's affair."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Progress(Protocol):
    def update(self, n: float = 1) -> Any: ...

    def set_postfix_str(self, s: str) -> None: ...

    def close(self) -> None: ...


class Hooks(Protocol):
    """What a run tells the outside. Only `report` is called on every rank, at the same steps."""

    def say(self, text: str) -> None: ...

    def progress(self, total: int, initial: int) -> Progress: ...

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None: ...

    def report(self, metrics: dict[str, float]) -> None: ...
