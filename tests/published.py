"""The published code's small test networks, as state dicts: weights by a rule, so that no file of them is needed."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scadm.interop import STYLE, UNET

State = dict[str, Tensor]


def weights(keys: dict[str, list[int]], seed: int = 0) -> State:
    """Each tensor drawn by its key."""
    state = {}
    for key, shape in keys.items():
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed))
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(0.1) if values.ndim < 2 else np.float32(np.prod(shape[1:]) ** -0.5)
        if values.ndim == 1 and key.endswith("weight"):
            values += 1
        state[key] = torch.from_numpy(values)
    return state


def small_state(reference: Path) -> State:
    """The small network's state dict, keys as in a Lightning checkpoint."""
    keys = json.loads((reference / "keys_small.json").read_text())
    unet, style = weights(keys["unet"]), weights(keys["style_encoder"])
    return {UNET + key: tensor for key, tensor in unet.items()} | {STYLE + key: t for key, t in style.items()}


def small_vq_state(reference: Path) -> State:
    """The small first stage's, in LDM's keys."""
    return weights(json.loads((reference / "keys_vq_small.json").read_text()))
