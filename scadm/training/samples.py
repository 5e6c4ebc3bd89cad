"""The grid of faces that a run shows while it trains."""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from scadm import faces
from scadm.data.loader import Batch
from scadm.synthesis import Synthesiser


def sample_grid(synthesiser: Synthesiser, batch: Batch) -> NDArray[np.uint8]:
    """One row a face: mask, truth, round trip, reconstruction, hair of the next face, noise only. uint8 (H, W, 3)."""
    images, labels = batch.image, batch.labels
    seeds = batch.positions
    other = np.roll(np.arange(len(images)), -1)
    columns = np.stack(
        [
            faces.colourise(labels),
            images,
            synthesiser.decode(torch.from_numpy(batch.latent).float()),
            synthesiser.reconstruct(images, labels, seeds),
            synthesiser.swap(images, labels, images[other], labels[other], ["hair"], seeds),
            synthesiser.random(labels, seeds),
        ]
    )
    return rearrange(columns, "column row h w rgb -> (row h) (column w) rgb")
