"""How good the averaged weights are meanwhile: a loss that can be compared between steps and runs, and pictures."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from scadm.data.loader import Batch, collate
from scadm.data.shards import ShardReader
from scadm.files.patience import patiently
from scadm.files.sharing import at_hand
from scadm.files.store import Store
from scadm.first_stage import FirstStage, load_first_stage
from scadm.models.scadm import SCADM
from scadm.precision import Autocast
from scadm.synthesis import Synthesiser
from scadm.training.job import TrainJob, Worker
from scadm.training.objective import Draws, TrainingModule, device_batch, fixed_draws
from scadm.training.parallel import worker_mean

SHOWN = 6
"""Faces in the grids of samples."""


class Validation:
    """The averaged weights on the first validation samples, at fixed noise and timesteps that cover 0 .. T - 1."""

    def __init__(self, job: TrainJob, worker: Worker, say: Callable[[str], None]) -> None:
        """`say` gets what is said where a store is away for a while."""
        self.job, self.worker, self.say = job, worker, say
        reader = ShardReader(job.shards, "validation", say=say)
        count = min(job.monitoring.validation_samples, len(reader))
        self.count = count
        mine = list(range(worker.rank, count, worker.ranks))
        size = job.training.micro_batch
        self.batches: list[Batch] = [
            collate(part, [reader[i] for i in part], [False] * len(part))
            for part in (mine[i : i + size] for i in range(0, len(mine), size))
        ]
        shown = range(min(SHOWN, count))
        self.shown = collate(shown, [reader[i] for i in shown], [False] * len(shown))
        self.model = SCADM(job.model, job.latent_channels).to(worker.device).eval().requires_grad_(False)
        self.module = TrainingModule(self.model, job.diffusion).to(worker.device)

    def draws(self, batch: Batch) -> Draws:
        shape = tuple(batch.latent.shape[1:])
        return fixed_draws(self.job.seed, batch.positions, self.count, shape, self.job.diffusion)

    @torch.no_grad()
    def losses(self, average: dict[str, Tensor], autocast: Autocast) -> dict[str, float]:
        """Mean loss over all ranks' samples, with both conditions present."""
        self.model.load_state_dict(average)
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.batches:
            latent, image, labels = device_batch(batch, self.worker.device)
            with autocast():
                losses = self.module(
                    self.job.scale.to_model(latent), image, labels, self.draws(batch).to(self.worker.device)
                )
            total += losses.double().sum().cpu()
        return {"validation/loss": worker_mean(total, self.worker) * self.worker.ranks / self.count}

    @cached_property  # rank 0 alone shows grids
    def first_stage(self) -> FirstStage:
        place = self.job.autoencoder
        folder = patiently(Store(place), lambda: at_hand(place), self.say)
        return load_first_stage(folder, self.worker.device).model

    def synthesiser(self, average: dict[str, Tensor]) -> Synthesiser:
        self.model.load_state_dict(average)
        return Synthesiser(
            model=self.model,
            first_stage=self.first_stage,
            scale=self.job.scale,
            diffusion=self.job.diffusion,
            sampling=self.job.sampling,
            resolution=self.job.resolution,
            device=self.worker.device,
        )
