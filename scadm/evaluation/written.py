"""What the evaluation leaves behind in reports/: numbers, for DVC, the gate, the registry and the report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from scadm.evaluation.conditioning import TURNS
from scadm.evaluation.editing import LEAST_SHARE, RING
from scadm.evaluation.interpolation import PARTS
from scadm.evaluation.measure import Measures
from scadm.evaluation.measured import RECONSTRUCTION, Measured
from scadm.files.manifest import Manifest, digest

FIGURES = "reports/figures"


def files(trained: Mapping[str, str], data: Manifest, measured: Measured, **about: Any) -> dict[str, str]:
    """{name: text} of all files; `data` is the shards' manifest, `about` is said of `evaluation_json`."""
    test = data.splits["test"][: measured.plan.test]
    split = digest({"faces": data.inputs["data/onehot"], "ids": test})
    return {
        "metrics.json": metrics_json(measured.measures),
        "intervals.json": intervals_json(measured.measures),
        "faces.csv": faces_csv(measured, test),
        "steps.csv": steps_csv(measured.measures),
        "evaluation.json": evaluation_json(trained, measured, test_split=split, **about),
    }


def metrics_json(measures: Mapping[str, Measures]) -> str:
    """{task: {row: {metric: value}}}."""
    return _json(_tree(measures, lambda measure: measure.value))


def intervals_json(measures: Mapping[str, Measures]) -> str:
    """{task: {row: {metric: [low, high]}}}, of the metrics that have an interval."""
    tree = _tree(measures, lambda measure: [measure.low, measure.high] if measure.low is not None else None)
    return _json(
        {
            task: {row: {name: ends for name, ends in part.items() if ends} for row, part in rows.items()}
            for task, rows in tree.items()
        }
    )


def _tree(measures: Mapping[str, Measures], what: Any) -> dict[str, Any]:
    return {
        task: {row: {name: what(measure) for name, measure in part.items()} for row, part in rows.items()}
        for task, rows in measures.items()
    }


def _json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=1) + "\n"


def faces_csv(measured: Measured, ids: Sequence[str]) -> str:
    """A line for each row of the reconstruction and test face, with its own numbers; `ids` are the test split's."""
    tables = []
    for row in RECONSTRUCTION:
        sheet = measured.rows("reconstruction")[row]
        table = pd.DataFrame({"id": [ids[p] for p in sheet.positions], "row": row, **sheet.by_face()})
        tables.append(table)
    return pd.concat(tables).to_csv(index=False, float_format="%.6f")


def steps_csv(measures: Mapping[str, Measures]) -> str:
    """Noise alone by the number of sampling steps: every metric, and seconds per image."""
    seconds = measures["seconds"]
    lines = [
        {"steps": int(row.removeprefix("steps_")), "seconds": seconds[row]["per_image"].value}
        | {name: measure.value for name, measure in part.items()}
        for row, part in measures["noise_only"].items()
    ]
    return pd.DataFrame(lines).to_csv(index=False)


def evaluation_json(
    trained: Mapping[str, str],
    measured: Measured,
    *,
    test_split: str,
    mlflow_run: str,
    unseen: Sequence[str],
    lineage: Mapping[str, str],
) -> str:
    """What was measured on what.

    `mlflow_run` holds it; `unseen` are classes that no training face shows; `lineage` leads back to data and code.
    """
    judges = list(measured.model.features) + list(measured.model.perceptual)
    return _json(
        {
            "run_key": trained["run_key"],
            "weights_sha256": trained["sha256"],
            "mlflow_run": mlflow_run,
            "test_split": test_split,
            "faces": measured.plan.test,
            "conditioning_faces": measured.plan.validation,
            "interpolated": len(measured.rows("interpolation").get("whole", ())),
            "pairs": {row: len(sheet) for row, sheet in measured.rows("partial_swap").items()},
            "parser": judges[0],
            "networks": judges[1:],
            "ssim_share": measured.ssim_share,
            "class_iou": measured.class_iou,
            "unseen": list(unseen),
            "lineage": dict(lineage),
            "rules": {
                "least_share": LEAST_SHARE,
                "ring": RING,
                "timesteps_a_face": TURNS,
                "interpolated_parts": list(PARTS),
            },
        }
    )


def lines(measured: Measured) -> Iterator[str]:
    """What the stage prints: every row of every task, and the model's share of the way in SSIM."""
    for task, rows in measured.measures.items():
        for row, part in rows.items():
            yield f"{task:14s} {row:12s} " + "  ".join(f"{name} {measure.value:.4g}" for name, measure in part.items())
    way = measured.ssim_share
    there = "there is no way to go" if way is None else f"the model goes {way:.1%} of the way"
    yield f"in SSIM {there} from style_blind to the ceiling"
