"""All that is measured of a model: tasks of a range of faces each, and what they found as one.

Test faces are reconstructed, and their hair is swapped and compared with that reconstruction. Validation faces, which
need no sampling, are denoised under right and wrong conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scadm.data.shards import ShardReader
from scadm.evaluation import conditioning, editing, metrics
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.conditioning import LossSheet
from scadm.evaluation.editing import SwapSheet
from scadm.evaluation.metrics import ScoreSheet
from scadm.evaluation.parsers import load_parser
from scadm.evaluation.reconstruction import Subjects, rows
from scadm.files.manifest import Split


class Counts(NamedTuple):
    """How many faces are measured: the first ones of each split."""

    test: int
    validation: int

    @classmethod
    def of(cls, splits: Mapping[Split, Sequence[str]], samples: int) -> "Counts":
        """At most `samples` of each split; of validation none where they are too few to compare."""
        test, validation = (min(samples, len(ids)) for ids in (splits["test"], splits["validation"]))
        return cls(test, validation if validation >= conditioning.LEAST_FACES else 0)

    def tasks(self, size: int) -> list[dict[str, str | int]]:
        """Arguments of an `Examiner`, for at most `size` faces each."""
        return [
            {"split": split, "start": start, "stop": min(start + size, count)}
            for split, count in self._asdict().items()
            for start in range(0, count, size)
        ]


class FaceSheets(NamedTuple):
    """What was measured of some test faces."""

    sheets: dict[str, ScoreSheet]
    """Of each row of the reconstruction."""
    swap: SwapSheet


class Examiner:
    """Holds model, parser and data in one process; called once for each task."""

    def __init__(
        self, subjects: Subjects, colours: NDArray[np.float64], pixels: NDArray[np.int64], counts: Counts, seed: int
    ) -> None:
        self.synthesiser = subjects.synthesiser()
        self.parser = load_parser(subjects.parser, subjects.device)
        self.readers = {split: ShardReader(subjects.shards, split) for split, n in counts._asdict().items() if n}
        self.colours = MeanColours(colours, pixels)
        self.counts, self.seed = counts, seed

    def __call__(self, split: str, start: int, stop: int) -> FaceSheets | LossSheet:
        reader, positions = self.readers[split], list(range(start, stop))
        if split == "validation":
            return conditioning.score(self.synthesiser, reader, positions, self.counts.validation, self.seed)
        images, labels = reader.batch(positions)
        made = rows(self.synthesiser, self.colours, images, labels, positions)
        return FaceSheets(
            sheets=metrics.score(self.parser, positions, images, labels, made),
            swap=editing.swap(self.synthesiser, reader, positions, images, labels, made["model"], self.counts.test),
        )


@dataclass(frozen=True)
class Measured:
    """Everything that the tasks have found, of all faces."""

    sheets: Mapping[str, ScoreSheet]
    """Of each row of the reconstruction."""
    swap: SwapSheet
    losses: LossSheet

    @classmethod
    def gather(cls, found: Sequence[FaceSheets | LossSheet], counts: Counts) -> "Measured":
        """All tasks' results as one. Raises ValueError if a face is missing or was measured twice."""
        losses = [part for part in found if isinstance(part, LossSheet)]
        faces = [part for part in found if not isinstance(part, LossSheet)]
        return cls(
            sheets={row: metrics.merge([part.sheets[row] for part in faces], counts.test) for row in faces[0].sheets},
            swap=editing.merge([part.swap for part in faces]),
            losses=conditioning.merge(losses, counts.validation),
        )

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """{task: {row: {metric: value}}}; a task that these faces do not allow is left out."""
        swap, losses = self.swap.summary(), self.losses.summary()
        return {
            "reconstruction": {row: sheet.summary() for row, sheet in self.sheets.items()},
            **({"parser": {"truth": next(iter(self.sheets.values())).truth_summary()}} if self.sheets else {}),
            **({f"swap_{editing.PART}": {"model": swap}} if swap else {}),
            **({"conditioning": losses} if losses else {}),
        }

    @property
    def class_iou(self) -> dict[str, dict[str, float]]:
        """{row: {class: IoU}}, first of the parser on the real images, then of each row of the reconstruction."""
        # Every sheet has the same, of the same real images.
        truth = metrics.class_iou(next(iter(self.sheets.values())).truth_confusion)
        return {"truth": truth} | {row: sheet.class_iou() for row, sheet in self.sheets.items()}

    @property
    def ssim_share(self) -> float | None:
        """How far the model's SSIM is on the way from style_blind to the ceiling; None where there is no way."""
        rows = self.metrics["reconstruction"]
        return metrics.share(*(rows[row]["ssim"] for row in ("model", "style_blind", "ceiling")))
