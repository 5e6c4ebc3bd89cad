"""One optimiser step: the model, its optimiser and its average, on one rank of several."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scadm.data.loader import Batch
from scadm.diffusion.noise import DROPOUT, generator
from scadm.files.checkpoint import read_checkpoint
from scadm.files.patience import patiently
from scadm.files.store import Store
from scadm.files.weights import load_state
from scadm.models.scadm import SCADM
from scadm.precision import channels_last, mixed_precision
from scadm.training import ema
from scadm.training.job import TrainJob, Worker
from scadm.training.objective import TrainingModule, device_batch, draw
from scadm.training.rate import rate
from scadm.training.state import TrainState


class Learnt(NamedTuple):
    loss: Tensor
    """This rank's share of the batch's mean loss, times the number of ranks: the mean over ranks is that of all."""
    norm: float
    """Of the gradient, before clipping."""
    rate: float


class Learner:
    """Holds all that a step changes. Its state is that of the checkpoint `resumed`, or the initial one.

    `say` gets what is said where the store of a checkpoint is away for a while.
    """

    def __init__(
        self, job: TrainJob, worker: Worker, resumed: Store | None, step: int, say: Callable[[str], None]
    ) -> None:
        def group(checkpoint: Store, name: str) -> dict[str, Tensor]:
            return patiently(checkpoint, lambda: read_checkpoint(checkpoint, [name])[0][name], say)

        config = job.training
        self.job, self.worker = job, worker
        torch.manual_seed(job.seed)  # the initial weights, equal on all ranks
        self.model = SCADM(job.model, job.latent_channels)
        if job.initial is not None and resumed is None:
            load_state(self.model, group(Store(job.initial), "weights"), job.initial)
        channels_last(self.model.to(worker.device))
        self.model.unet.gradient_checkpointing = job.gradient_checkpointing
        module = TrainingModule(self.model, job.diffusion).to(worker.device)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.state = TrainState(
            model=self.model,
            average={name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()},
            optimiser=torch.optim.AdamW(
                self.trainable, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
            ),
            step=step,
        )
        if resumed is not None:
            self.state.restore(partial(group, resumed), step, resumed.root)
        if job.compile:
            module.compile()
        self.module: TrainingModule | DistributedDataParallel = module
        if worker.ranks > 1:
            # As views of the buckets, gradients are not copied into them for each all-reduce.
            self.module = DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        self.autocast = mixed_precision(config.precision, worker.device)

    def learn(self, step: int, parts: Sequence[Batch]) -> Learnt:
        """Step `step` of 0 .. steps - 1, on this rank's micro-batches. Raises ValueError where it is not finite."""
        config, device, state = self.job.training, self.worker.device, self.state
        learning_rate = config.learning_rate * rate(step, config.steps, config.warmup_steps, config.decay)
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate
        ddp = self.module if isinstance(self.module, DistributedDataParallel) else None
        total = torch.zeros((), device=device)
        losses: list[Tensor] = []
        for i, part in enumerate(parts):
            # Gradients of a step are reduced once, with its last micro-batch.
            with ddp.no_sync() if ddp is not None and i + 1 < len(parts) else nullcontext():
                latent, image, labels = device_batch(part, device)
                draws = draw(self.job.seed, part.positions, tuple(latent.shape[1:]), self.job.diffusion).to(device)
                # Dropout is torch's own affair: reseeded, a resumed run draws what the other would have drawn.
                torch.manual_seed(int(generator(self.job.seed, DROPOUT, part.positions[0]).integers(2**63)))
                with self.autocast():
                    losses.append(self.module(self.job.scale.to_model(latent), image, labels, draws))
                    # DDP takes the mean of the ranks' gradients: with this weight, that of all images of the batch,
                    # however many of them each rank has.
                    share = losses[-1].sum() * (self.worker.ranks / config.batch_size)
                share.backward()
            total += share.detach()
        norm = nn.utils.clip_grad_norm_(self.trainable, config.clip_norm).item()
        if not math.isfinite(norm):  # as of any loss that is not finite, on all ranks alike
            self._refuse(step, norm, parts, losses)
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        state.step = step + 1
        ema.update(state.average, self.model, state.step, config.ema_decay)
        return Learnt(total, norm, learning_rate)

    def _refuse(self, step: int, norm: float, parts: Sequence[Batch], losses: Sequence[Tensor]) -> None:
        """Raise ValueError with the samples, of all ranks, whose loss is not finite."""
        found = torch.cat([loss.detach().float().cpu() for loss in losses])
        ids = [id for part in parts for id in part.ids]
        mine = [(id, value) for id, value in zip(ids, found.tolist(), strict=True) if not math.isfinite(value)]
        bad = [mine]
        if self.worker.ranks > 1:
            bad = [[] for _ in range(self.worker.ranks)]
            dist.all_gather_object(bad, mine)
        samples = ", ".join(f"{id} ({value})" for part in bad for id, value in part)
        what = f"the loss of sample(s) {samples} is not finite" if samples else "all losses are finite"
        config = self.job.training
        raise ValueError(
            f"step {step + 1}: the gradient's norm is {norm}, expected a finite number; {what}. Lower "
            f"training.learning_rate (it is {config.learning_rate}) or training.clip_norm, or use training.precision "
            "fp32; the last checkpoint is kept."
        )
