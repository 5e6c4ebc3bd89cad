"""What the evaluation stage says of a model: to the report, and to the next stage."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from scadm.config import Params, TrainingConfig, flatten
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.editing import PART
from scadm.evaluation.findings import findings
from scadm.evaluation.report import Curve, Figure, ReportData
from scadm.evaluation.tasks import Measured
from scadm.files.manifest import Manifest


def lines(measured: Measured) -> Iterator[str]:
    """What the stage prints: every row of every task, and the model's share of the way in SSIM."""
    for task, rows in measured.metrics.items():
        for row, metrics in rows.items():
            yield f"{task:14s} {row:12s} " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    way = measured.ssim_share
    there = "there is no way to go" if way is None else f"the model goes {way:.1%} of the way"
    yield f"in SSIM {there} from style_blind to the ceiling"


def evaluation_json(trained: Mapping[str, str], measured: Measured, test_split: str, mlflow_run: str) -> str:
    """reports/evaluation.json: what was measured on what, for the gate and the registry; `mlflow_run` holds it."""
    sheets = measured.sheets
    tree = {
        "run_key": trained["run_key"],
        "weights_sha256": trained["sha256"],
        "mlflow_run": mlflow_run,
        "test_split": test_split,
        "faces": len(sheets["model"].positions),
        f"swap_{PART}_pairs": len(measured.swap),
        "conditioning_faces": len(measured.losses),
        "parser": sheets["model"].parser,
        "ssim_share": measured.ssim_share,
        "class_iou": measured.class_iou,
    }
    return json.dumps(tree, indent=1) + "\n"


def report_data(
    params: Params,
    trained: Mapping[str, str],
    measured: Measured,
    figures: Mapping[str, Figure],
    colours: MeanColours,
    data: Manifest,
    test_split: str,
    reports: Path,
) -> ReportData:
    sheets, way = measured.sheets, measured.ssim_share
    faces = len(sheets["model"].positions)
    size = params.project.resolution
    made = _training(params.training, len(data.splits["train"]))
    summary = (
        f"SCA-DM at {size} pixels, {made}. Measured on {faces} faces of "
        f"{params.project.data_name} that {_seen(params)}. "
    )
    if way is not None:
        summary += f"Its reconstructions go {way:.0%} of the way in SSIM from style_blind to the ceiling."
    return ReportData(
        title=f"SCA-DM on {params.project.data_name}, {size} pixels",
        summary=summary,
        rows=measured.metrics["reconstruction"],
        class_iou=measured.class_iou,
        conditioning=findings(measured),
        figures=list(figures.values()),
        curves=_curves(reports),
        lineage={
            "run": {
                "run key": trained["run_key"],
                "MLflow run": trained["mlflow_run"],
                "sha256 of the weights' manifest": trained["sha256"],
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
        f"The numbers of the reconstruction come from {faces} faces and one seed; they carry no interval yet. The "
        "intervals of the other tables are over faces: neither over seeds nor over trainings.",
        "Transfer and arrival see the mean colour only, not the texture of a part.",
        f"mIoU, accuracy and the Frechet distance rest on the parser {parser}, which errs on real faces too: read "
        "them against the ceiling's, and never against a table made with another parser.",
    ]
    if faces < 1000:
        limits.append(f"A Frechet distance of {faces} faces is biased upwards: compare it only at an equal number.")
    if colours.unseen:
        limits.append(f"The train split shows no {', '.join(colours.unseen)}: their colour in style_blind is a guess.")
    return limits


def _seen(params: Params) -> str:
    """What is known of how the measured faces relate to what was trained."""
    trained_here = (params.autoencoder.kind, params.parser.kind, params.training.init_from) == ("small", "small", None)
    if trained_here:
        return "neither the model nor the autoencoder nor the parser has seen"
    return "no training of this pipeline has seen; what the pretrained weights were trained on is not checked"
