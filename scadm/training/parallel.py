"""What the ranks of a training tell one another."""

import torch
import torch.distributed as dist
from torch import Tensor

from scadm.training.job import Worker


def worker_mean(value: Tensor, worker: Worker) -> float:
    """Mean of a scalar over the ranks; called on all of them."""
    if worker.ranks > 1:
        value = value.detach().clone().to(worker.device)
        dist.all_reduce(value)
        value /= worker.ranks
    return value.item()


def greatest(value: int, worker: Worker) -> int:
    """The greatest of the ranks' values, on all ranks; called on all of them."""
    if worker.ranks == 1:
        return value
    shared = torch.tensor(value, device=worker.device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared.item())


def agreed(value: int, worker: Worker) -> int:
    """Rank 0's value, on all ranks; called on all of them."""
    if worker.ranks == 1:
        return value
    shared = torch.tensor(value, device=worker.device)
    dist.broadcast(shared, src=0)
    return int(shared.item())
