"""Random weights in the forms in which those of published networks come."""

from pathlib import Path

import torch
from torch import Tensor

ALEXNET = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
"""Shapes of its convolutions, by their place in torchvision's `features`."""


def _scaled(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Such that a layer's outputs are about as large as its inputs."""
    weight = torch.randn(shape, generator=generator)
    return weight * (2 / weight[0].numel()) ** 0.5


def alexnet(seed: int = 0) -> dict[str, Tensor]:
    """LPIPS with AlexNet: backbone and linear layers."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for k, (place, shape) in enumerate(ALEXNET.items()):
        state[f"features.{place}.weight"] = _scaled(shape, generator)
        state[f"features.{place}.bias"] = torch.randn(shape[0], generator=generator) / 10
        state[f"lin{k}.weight"] = torch.rand((1, shape[0], 1, 1), generator=generator)
    return state


def save_inception(path: Path, seed: int = 0) -> None:
    """Write 96 MB of them, with torch-fidelity's names and shapes."""
    from torch_fidelity import FeatureExtractorInceptionV3

    class Shapes(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Without weights."""

    torch.save({}, path)
    with torch.device("meta"):
        names = Shapes("shapes", ["2048"], feature_extractor_weights_path=str(path)).state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in names.items():
        if not value.is_floating_point():  # how many batches a norm has seen
            state[name] = torch.zeros_like(value, device="cpu")
        elif value.ndim == 1:  # of norms: positive, as a variance is
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            state[name] = _scaled(tuple(value.shape), generator)
    torch.save(state, path)
