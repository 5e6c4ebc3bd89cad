"""The state of a training run between two steps, and its way to and from named tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scadm.files.weights import load_state


@dataclass
class TrainState:
    """The sample order and all noise are functions of the step, so nothing else needs to be kept."""

    model: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    step: int

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        moments = {
            f"{index}.{name}": value
            for index, entries in self.optimiser.state_dict()["state"].items()
            for name, value in entries.items()
        }
        return {"model": dict(self.model.state_dict()), "average": self.average, "optimiser": moments}

    def restore(self, read: Callable[[str], dict[str, Tensor]], step: int, where: str) -> None:
        """As a checkpoint says, of which `read` gives a group. One is read after the other: they are large."""
        load_state(self.model, read("model"), where)
        for name, tensor in read("average").items():
            self.average[name].copy_(tensor)
        trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        tree, moments = self.optimiser.state_dict(), read("optimiser")
        tree["state"] = {}
        for key in list(moments):
            value = moments.pop(key)  # so that no more than one of them is held twice
            index, name = key.split(".", 1)
            # The moments in the memory layout of their weights, as the optimiser itself makes them.
            found = value if name == "step" else torch.empty_like(trained[int(index)]).copy_(value)
            tree["state"].setdefault(int(index), {})[name] = found
        self.optimiser.load_state_dict(tree)
        self.step = step
