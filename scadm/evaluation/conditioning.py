"""Is the conditioning used at all? The denoising loss on the validation split, with right and with wrong conditions.

The loss is the training's own, at noise and timesteps that are fixed for each face. Each face is denoised under its own
style and mask; under the style codes of the next face (its own for the classes that the next face lacks); and with its
own style codes under the next face's mask, in SPADE and in the attention. With loss_i the mean over a face's timesteps:

    loss = mean of loss_i
    rise = mean of loss_i - own loss_i

A model that ignores a condition loses nothing by a wrong one: its rise is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from scadm.data.loader import Batch, collate
from scadm.data.shards import ShardReader
from scadm.evaluation.measure import Measures, mean
from scadm.evaluation.sheet import Sheet
from scadm.models.scadm import to_one_hot
from scadm.synthesis import CHUNK, Synthesiser
from scadm.training.objective import TrainingModule, device_batch, fixed_draws

ROWS = ("own", "other_styles", "other_masks")
TURNS = 4
"""Timesteps of each face, one in each quarter of 0 .. T - 1."""
LEAST_FACES = 2
"""A face needs another one, and an interval two differences."""


@dataclass(frozen=True)
class LossSheet(Sheet):
    """The losses of N faces of the validation split."""

    losses: NDArray[np.float64]
    """(N, 3), under each of the conditions `ROWS`."""

    def summary(self) -> Measures:
        """Each row's loss, and the rise of the wrong ones; empty with fewer than `LEAST_FACES` faces.

        Raises ValueError for a loss that is not finite.
        """
        if len(self) < LEAST_FACES:
            return {}
        wrong = self.positions[~np.isfinite(self.losses).all(axis=1)]
        if len(wrong):
            raise ValueError(
                f"the denoising loss of the faces at validation positions {wrong.tolist()} is not a finite number: "
                "nothing can be said of the model. Look at the training's loss."
            )
        own = self.losses[:, 0]
        found = {"own": {"loss": mean(own)}}
        for row, losses in zip(ROWS[1:], self.losses.T[1:], strict=True):
            found[row] = {"loss": mean(losses), "rise": mean(losses - own)}
        return found


def score(synthesiser: Synthesiser, reader: ShardReader, positions: Sequence[int], count: int, seed: int) -> LossSheet:
    """Losses of the validation faces at `positions` out of the first `count`, under each of the conditions."""
    module = TrainingModule(synthesiser.model, synthesiser.diffusion).to(synthesiser.device)
    chunks = [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)]
    with synthesiser.inference():
        losses = [_losses(synthesiser, module, reader, chunk, count, seed) for chunk in chunks]
    return LossSheet(np.asarray(positions, dtype=np.int64), torch.cat(losses).cpu().numpy())


def _losses(
    synthesiser: Synthesiser,
    module: TrainingModule,
    reader: ShardReader,
    positions: Sequence[int],
    count: int,
    seed: int,
) -> Tensor:
    """(B, 3), under each of the conditions."""
    batch, other = _read(reader, positions), _read(reader, [(p + 1) % count for p in positions])
    latent, image, labels = device_batch(batch, synthesiser.device)
    _, other_image, other_labels = device_batch(other, synthesiser.device)
    mask, other_mask = to_one_hot(labels), to_one_hot(other_labels)
    style = module.model.encode_style(image, mask)
    other_style = module.model.encode_style(other_image, other_mask)
    present = rearrange(other_mask.amax(dim=(2, 3)) > 0, "b k -> b k 1")
    conditions = ((style, mask), (torch.where(present, other_style, style), mask), (style, other_mask))
    x_0 = synthesiser.scale.to_model(latent)
    # Each turn is a position of its own: the timesteps of a face are spread evenly, its noises are independent.
    turns = [
        fixed_draws(
            seed,
            [turn * count + p for p in positions],
            TURNS * count,
            tuple(x_0.shape[1:]),
            synthesiser.diffusion,
        ).to(synthesiser.device)
        for turn in range(TURNS)
    ]
    columns = []
    for codes, imposed in conditions:
        conditioning = module.model.condition(codes, imposed)
        columns.append(torch.stack([module.loss(x_0, draws, conditioning).double() for draws in turns]).mean(dim=0))
    return torch.stack(columns, dim=1)


def _read(reader: ShardReader, positions: Sequence[int]) -> Batch:
    """Faces as they are, not mirrored."""
    return collate(positions, [reader[p] for p in positions], [False] * len(positions))
