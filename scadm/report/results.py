"""All that the report is made of, as the stages have left it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from scadm.config import Params
from scadm.evaluation.figures import Figure
from scadm.evaluation.measure import Measure, Measures
from scadm.files.manifest import Manifest
from scadm.report.comparisons import Comparisons
from scadm.stage import Stage


@dataclass(frozen=True)
class Results:
    params: Params
    data: Manifest
    """Of data/shards."""
    trained: Mapping[str, str]
    evaluation: Mapping[str, Any]
    registration: Mapping[str, Any]
    measures: Mapping[str, Measures]
    """{task: {row: {metric: measure}}}."""
    steps: pd.DataFrame
    losses: Mapping[str, pd.DataFrame]
    """{training | validation: step and loss}."""
    figures: Mapping[str, Figure]
    comparisons: Comparisons

    @classmethod
    def read(cls, stage: Stage) -> "Results":
        evaluation = stage.read_json("reports/evaluation.json")
        figures = {path.stem: Figure.open(path) for path in stage.path("reports/figures").glob("*.png")}
        losses = {name: pd.read_csv(stage.path(f"reports/{name}.csv")) for name in ("training", "validation")}
        return cls(
            params=stage.params,
            data=Manifest.read(stage.path("data/shards"), verify=False),
            trained=stage.read_json("models/train.json"),
            evaluation=evaluation,
            registration=stage.read_json("reports/registration.json"),
            measures=joined(stage.read_json("reports/metrics.json"), stage.read_json("reports/intervals.json")),
            steps=pd.read_csv(stage.path("reports/steps.csv")),
            losses=losses,
            figures=figures,
            comparisons=Comparisons.read(stage.path("comparisons")),
        )

    def rows(self, task: str) -> Measures:
        """Empty where the faces did not allow the task."""
        return dict(self.measures.get(task, {}))


def joined(metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> dict[str, Measures]:
    """Metrics and the intervals of some of them, both {task: {row: {metric: ...}}}, as measures."""
    return {
        task: {
            row: {
                name: Measure(value, *intervals.get(task, {}).get(row, {}).get(name, ()))
                for name, value in part.items()
            }
            for row, part in rows.items()
        }
        for task, rows in metrics.items()
    }
