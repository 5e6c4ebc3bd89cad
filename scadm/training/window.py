"""The mean loss between two logged steps, also where a run was resumed between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scadm.training.job import Worker
from scadm.training.parallel import worker_mean


@dataclass
class Window:
    """The losses since the last logged step. A checkpoint keeps them, so that a resumed run logs the same means."""

    sum: float = 0.0
    steps: int = 0

    def add_all(self, losses: Sequence[Tensor], worker: Worker) -> None:
        """Each rank's losses of some steps; called on all ranks."""
        if losses:
            self.sum += worker_mean(torch.stack(list(losses)).sum(), worker)
            self.steps += len(losses)

    def mean(self) -> float:
        return self.sum / self.steps

    def as_json(self) -> list[float]:
        return [self.sum, self.steps]
