"""Several ranks of a training on this machine, each a process of its own."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from scadm.training.job import Worker


def run_ranks(ranks: int, folder: Path, work: Callable[..., None], *given: Any) -> None:
    """`work(worker, *given)` as each of the ranks, which are connected; what fails in one of them fails here.

    They are forked from a process that has imported the training, once for all tests: alone, each would spend seconds
    with that. A rank that waits for another in vain fails after two minutes.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["scadm.training.loop"])
    start_processes(_rank, (ranks, str(folder / "meeting"), work, given), nprocs=ranks, start_method="forkserver")


def _rank(rank: int, ranks: int, meeting: str, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=timedelta(minutes=2)
    )
    work(Worker(rank, ranks, torch.device("cpu")), *given)
    dist.destroy_process_group()
