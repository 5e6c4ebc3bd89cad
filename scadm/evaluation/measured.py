"""What all tasks have found, as one: every number, with its interval, by task and row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scadm.evaluation import metrics, noise_only
from scadm.evaluation.conditioning import LossSheet
from scadm.evaluation.editing import SwapSheet
from scadm.evaluation.fixed import FIRST, SECOND
from scadm.evaluation.interpolation import PathSheet
from scadm.evaluation.measure import Measure, Measures
from scadm.evaluation.noise_only import NoiseSheet, PairSheet
from scadm.evaluation.scores import ReadSheet, ScoreSheet
from scadm.evaluation.sheet import Sheet, join, require_all
from scadm.evaluation.tasks import Found, Plan
from scadm.evaluation.total_swap import TotalSheet

RECONSTRUCTION = ("style_blind", "own_colours", "model", "ceiling")
"""Rows of the first table."""


@dataclass(frozen=True)
class Measured:
    """Everything that the tasks of a plan have found, of all faces."""

    plan: Plan
    sheets: dict[str, Sheet]
    """By the names that tasks give."""

    @classmethod
    def gather(cls, found: Sequence[Found], plan: Plan) -> "Measured":
        """All tasks' results as one. Raises ValueError if a face is missing or was measured twice."""
        names = dict.fromkeys(name for part in found for name in part)
        sheets = {name: join([part[name] for part in found if name in part]) for name in names}
        for name, sheet in sheets.items():
            if isinstance(sheet, SwapSheet):
                continue  # of the pairs that there are
            expected = plan.validation if isinstance(sheet, LossSheet) else plan.test
            if isinstance(sheet, PathSheet):
                expected = min(expected, plan.config.interpolated)
            require_all(sheet, expected, name)
        return cls(plan, sheets)

    def of(self, name: str, kind: type[Any]) -> Any:
        """The sheet of a name."""
        sheet = self.sheets[name]
        assert isinstance(sheet, kind)
        return sheet

    def rows(self, task: str) -> dict[str, Any]:
        """{row: sheet} of a task."""
        return {name.removeprefix(f"{task}/"): self.sheets[name] for name in self.sheets if name.startswith(f"{task}/")}

    @property
    def truth(self) -> ReadSheet:
        return self.of("truth", ReadSheet)

    @property
    def model(self) -> ScoreSheet:
        return self.of("reconstruction/model", ScoreSheet)

    @cached_property
    def measures(self) -> dict[str, Measures]:
        """{task: {row: {metric: measure}}}; what these faces do not allow is left out."""
        scores = {row: self.of(f"reconstruction/{row}", ScoreSheet) for row in RECONSTRUCTION}
        total: TotalSheet = self.of("total_swap", TotalSheet)
        swaps = {row: sheet.summary() for row, sheet in self.rows("partial_swap").items()}
        paths = {row: sheet.summary() for row, sheet in self.rows("interpolation").items()}
        losses = self.sheets.get("conditioning")
        found: dict[str, Measures] = {
            "reconstruction": {
                row: sheet.likeness() | sheet.obedience() | sheet.distances(self.truth) for row, sheet in scores.items()
            },
            "parser": {"truth": self.truth.obedience()},
            "total_swap": {"model": total.summary(self.model, self.truth)},
            "partial_swap": swaps,
            "interpolation": paths,
            "noise_only": self._noise_only(),
            "conditioning": losses.summary() if isinstance(losses, LossSheet) else {},
            "seconds": {
                row: {"per_image": Measure(float(np.median(sheet.seconds)))} for row, sheet in self._by_steps().items()
            },
        }
        without_holes = {task: {row: part for row, part in rows.items() if part} for task, rows in found.items()}
        return {task: rows for task, rows in without_holes.items() if rows}

    def _by_steps(self) -> dict[str, NoiseSheet]:
        return {f"steps_{n}": self.of(f"noise_only/{n}/{FIRST}", NoiseSheet) for n in self.plan.steps}

    def _noise_only(self) -> Measures:
        found = {row: sheet.obedience() | sheet.distances(self.truth) for row, sheet in self._by_steps().items()}
        first, second = (
            self.of(f"noise_only/{self.plan.sampling_steps}/{draw}", NoiseSheet) for draw in (FIRST, SECOND)
        )
        diverse = noise_only.diversity(first, second, self.truth, self.of("diversity", PairSheet))
        found[f"steps_{self.plan.sampling_steps}"] |= diverse
        return found

    @property
    def class_iou(self) -> dict[str, dict[str, float]]:
        """{row: {class: IoU}}, first of the parser on the real images, then of each row of the reconstruction."""
        rows = {"truth": self.truth, **{row: self.of(f"reconstruction/{row}", ScoreSheet) for row in RECONSTRUCTION}}
        return {row: metrics.class_iou(sheet.total) for row, sheet in rows.items()}

    @property
    def ssim_share(self) -> float | None:
        """How far the model's SSIM is on the way from style_blind to the ceiling; None where there is no way."""
        rows = self.measures["reconstruction"]
        return metrics.share(*(rows[row]["ssim"].value for row in ("model", "style_blind", "ceiling")))

    def worst(self, count: int) -> dict[str, list[int]]:
        """{metric: positions} of the worst reconstructions, the worst first."""
        rises = dict.fromkeys(self.model.by_face(), 1.0) | dict.fromkeys(self.model.perceptual, -1.0)
        return {
            name: np.argsort(rises[name] * values, kind="stable")[:count].tolist()
            for name, values in self.model.by_face().items()
        }
