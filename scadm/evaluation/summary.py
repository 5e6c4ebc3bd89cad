"""What the evaluation stage says of a model: to the report, and to the next stage."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from scadm.config import Params, TrainingConfig, flatten
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.metrics import ScoreSheet, share
from scadm.evaluation.report import Curve, Figure, ReportData
from scadm.manifest import Manifest


def evaluation_json(trained: Mapping[str, str], sheets: Mapping[str, ScoreSheet], test_split: str) -> str:
    """reports/evaluation.json: what was measured on what, for the gate and the registry."""
    tree = {
        "run_key": trained["run_key"],
        "weights_sha256": trained["sha256"],
        "mlflow_run": trained["mlflow_run"],
        "test_split": test_split,
        "faces": len(sheets["model"].positions),
        "parser": sheets["model"].parser,
        "class_iou": {row: sheet.class_iou() for row, sheet in sheets.items()},
    }
    return json.dumps(tree, indent=1) + "\n"


def report_data(
    params: Params,
    trained: Mapping[str, str],
    sheets: Mapping[str, ScoreSheet],
    figures: Mapping[str, Figure],
    colours: MeanColours,
    data: Manifest,
    test_split: str,
    reports: Path,
) -> ReportData:
    rows = {name: sheet.summary() for name, sheet in sheets.items()}
    way = share(rows["model"]["ssim"], rows["style_blind"]["ssim"], rows["ceiling"]["ssim"])
    faces = len(sheets["model"].positions)
    size = params.project.resolution
    made = _training(params.training, len(data.splits["train"]))
    summary = (
        f"SCA-DM at {size} pixels, {made}. Measured on {faces} faces of "
        f"{params.project.data_name} that neither the model nor the autoencoder nor the parser has seen. "
    )
    if way is not None:
        summary += f"Its reconstructions go {way:.0%} of the way in SSIM from painting by numbers to the ceiling."
    return ReportData(
        title=f"SCA-DM on {params.project.data_name}, {size} pixels",
        summary=summary,
        rows=rows,
        class_iou={name: sheet.class_iou() for name, sheet in sheets.items()},
        figures=list(figures.values()),
        curves=_curves(reports),
        lineage={
            "run": {
                "run key": trained["run_key"],
                "MLflow run": trained["mlflow_run"],
                "weights sha256": trained["sha256"],
                "data manifest": data.digest,
                "autoencoder": data.autoencoder or "",
                "test split": test_split,
            },
            "parameters": flatten(
                params.model_dump(mode="json", include={"model", "diffusion", "training", "sampling"})
            ),
        },
        limits=_limits(faces, sheets["model"].parser, colours),
        quote_paper=params.project.data_name == "celebamask-hq" and size == 256,
    )


def _training(training: TrainingConfig, faces: int) -> str:
    """How the weights were made, for a sentence."""
    if training.steps == 0:
        return f"with the weights of {training.init_from} as they are"
    start = f" from {training.init_from}" if training.init_from else ""
    return f"trained{start} for {training.steps} steps of {training.batch_size} on {faces} faces"


def _curves(reports: Path) -> list[Curve]:
    curves = []
    for name in ("training", "validation"):
        table = pd.read_csv(reports / f"{name}.csv")
        curves.append(Curve(f"{name} loss", table["step"].tolist(), table["loss"].tolist()))
    return curves


def _limits(faces: int, parser: str, colours: MeanColours) -> list[str]:
    limits = [
        f"The numbers come from {faces} faces and one seed; they carry no interval yet.",
        f"mIoU, accuracy and the Frechet distance rest on the parser {parser}, which errs on real faces too: read "
        "them against the ceiling's, and never against a table made with another parser.",
    ]
    if faces < 1000:
        limits.append(f"A Frechet distance of {faces} faces is biased upwards: compare it only at an equal number.")
    if colours.unseen:
        limits.append(f"The train split shows no {', '.join(colours.unseen)}: their colour in style_blind is a guess.")
    return limits
