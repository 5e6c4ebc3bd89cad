"""Fit the small face parser to the train split: a short run in one process, determined by its seed."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from scadm import faces
from scadm.config import ParserStageConfig
from scadm.models.parser import FaceParser
from scadm.pixels import FaceSource, Images, Labels, to_signed
from scadm.precision import channels_last, mixed_precision
from scadm.training.rate import rate


def fit_parser(
    source: FaceSource,
    config: ParserStageConfig,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    device: torch.device | str = "cpu",
) -> tuple[FaceParser, list[dict[str, float]]]:
    """Train a parser on the faces of `source`: AdamW on `parsing_loss`, mirrored half of the time.

    Returns the parser in evaluation mode on `device`, and the history as rows {step, loss}, steps counted from
    1; `progress` receives the same two. Equal arguments give equal weights on a CPU with the same number of
    threads. Raises ValueError if the source is empty, holds an unknown label id, or the loss is not finite.
    """
    training = config.training
    if not len(source):
        raise ValueError(
            "the train split holds no faces, so there is nothing to fit the face parser to. "
            "Lower data.split.validation and data.split.test, or bring more faces."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parser = FaceParser(config.network)
    parser.to(device).train()
    channels_last(parser)
    autocast = mixed_precision(training.precision, torch.device(device))
    optimiser = torch.optim.AdamW(parser.parameters(), lr=training.learning_rate, weight_decay=1e-2, fused=True)
    schedule = LambdaLR(optimiser, lambda step: rate(step, training.steps, training.steps // 20, "cosine"))
    rng = np.random.default_rng(seed)
    order = _order(len(source), training.steps * training.batch_size, rng)

    history = []
    for step in range(training.steps):
        chosen = order[step * training.batch_size : (step + 1) * training.batch_size]
        images, labels = source.batch(chosen.tolist())
        faces.require_ids(labels, "the train split")
        images, labels = _mirror_some(images, labels, rng.random(len(images)) < 0.5)
        with autocast():
            logits = parser(to_signed(images, device)).float()
        loss = parsing_loss(logits, torch.from_numpy(labels).to(device).long())
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(
                f"the face parser's loss is {value} at step {step + 1}, expected a finite number: its weights are "
                f"lost. Lower parser.training.learning_rate (it is {training.learning_rate})."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parser.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        history.append({"step": step + 1, "loss": value})
        progress(step + 1, value)
    return parser.eval(), history


def parsing_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross-entropy plus soft Dice of logits (B, 19, H, W) against class ids (B, H, W).

    Plain cross-entropy is content to miss an earring of four pixels. Here a pixel weighs the inverse root of its
    class's size in the batch, and Dice weighs every class that the batch shows equally, as the mean IoU will.
    """
    truth = F.one_hot(labels, faces.NUM_CLASSES).movedim(-1, 1).to(logits.dtype)  # (B, 19, H, W)
    probabilities = logits.softmax(dim=1)
    pixels = truth.sum(dim=(0, 2, 3))  # (19,)
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))
    total = pixels + probabilities.sum(dim=(0, 2, 3))
    present = pixels > 0
    dice = 1 - (2 * overlap[present] / total[present]).mean()
    return F.cross_entropy(logits, labels, weight=pixels.clamp(min=1).rsqrt()) + dice


def _order(count: int, positions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which face is read at each position: one shuffle after another, cut at `positions`."""
    shuffles = [rng.permutation(count) for _ in range(math.ceil(positions / count))]
    return np.concatenate(shuffles)[:positions]


def _mirror_some(images: Images, labels: Labels, chosen: NDArray[np.bool_]) -> tuple[Images, Labels]:
    """Mirror the chosen faces (B,), and exchange the left and right parts of their labels."""
    images = np.where(chosen[:, None, None, None], images[:, :, ::-1], images)
    labels = np.where(chosen[:, None, None], faces.mirror_labels(labels), labels)
    return images, labels
