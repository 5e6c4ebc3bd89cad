"""Weights on disk: safetensors beside the configuration that they belong to. Loading is strict and needs no flags."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from scadm import faces
from scadm.files.manifest import write_atomically, write_json

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


def fingerprint(config: dict[str, Any], state: dict[str, Tensor]) -> str:
    """sha256 over a configuration and the names, types, shapes and values of its weights."""
    total = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def save_module(folder: Path, module: nn.Module, config: dict[str, Any]) -> str:
    """Write a module's weights and configuration into `folder`; returns their fingerprint."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    mark = fingerprint(config, state)
    write_atomically(folder / WEIGHTS, save(state))
    write_json(folder / CONFIG, {"config": config, "labels": list(faces.LABELS), "fingerprint": mark})
    return mark


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """The configuration and the fingerprint that `save_module` wrote."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a folder with {CONFIG} and {WEIGHTS}. Run `dvc repro`.")
    tree = json.loads(path.read_text())
    faces.require_labels(tree["labels"], str(path))
    return tree["config"], tree["fingerprint"]


def load_into(module: nn.Module, path: Path) -> None:
    """Load weights strictly: a missing, an extra or a misshapen tensor raises ValueError naming it."""
    load_state(module, load_file(path), str(path))


def load_state(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    expected = module.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{where} does not fit this configuration: missing {missing[:5]}, not expected {extra[:5]}, "
            f"other shapes {shapes[:5]} (first five each). Load it with the configuration that it was saved with."
        )
    module.load_state_dict(state)
