"""The paper's first task: each test face from its own mask and styles, beside the rows that give numbers meaning."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scadm.config import SamplingConfig
from scadm.data.shards import ShardReader
from scadm.evaluation.baselines import MeanColours, own_colours
from scadm.evaluation.metrics import ScoreSheet, score
from scadm.evaluation.parsers import load_parser
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


class Reconstruction:
    """Holds model, parser and data in one process; called once for each range of test faces."""

    def __init__(self, subjects: Subjects, colours: NDArray[np.float64], pixels: NDArray[np.int64]) -> None:
        self.synthesiser = subjects.synthesiser()
        self.parser = load_parser(subjects.parser, subjects.device)
        self.reader = ShardReader(subjects.shards, "test")
        self.colours = MeanColours(colours, pixels)

    def __call__(self, start: int, stop: int) -> dict[str, ScoreSheet]:
        positions = list(range(start, stop))
        images, labels = self.reader.batch(positions)
        found = rows(self.synthesiser, self.colours, images, labels, positions)
        return score(self.parser, positions, images, labels, found)
