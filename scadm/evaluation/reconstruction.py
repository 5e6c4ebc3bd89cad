"""The paper's first task: each test face from its own mask and styles, beside the rows that give numbers meaning."""

from dataclasses import dataclass
from pathlib import Path

import torch

from scadm.config import SamplingConfig
from scadm.evaluation.baselines import MeanColours, own_colours
from scadm.pixels import Images, Labels
from scadm.synthesis import Synthesiser, load_synthesiser


@dataclass(frozen=True)
class Subjects:
    """Where the model under test and its data lie."""

    weights: str
    """Path or URI of the final checkpoint."""
    autoencoder: Path
    parser: Path
    shards: str
    sampling: SamplingConfig
    use_gpu: bool

    def synthesiser(self) -> Synthesiser:
        return load_synthesiser(self.weights, self.autoencoder, self.sampling, self.device)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.use_gpu else "cpu")


def rows(
    synthesiser: Synthesiser, colours: MeanColours, images: Images, labels: Labels, positions: list[int]
) -> dict[str, Images]:
    """Every row's images of the same faces; a face's seed is its position in the test split."""
    return {
        "style_blind": colours.style_blind(labels),
        "own_colours": own_colours(images, labels),
        "model": synthesiser.reconstruct(images, labels, positions),
        "ceiling": synthesiser.round_trip(images),
    }
