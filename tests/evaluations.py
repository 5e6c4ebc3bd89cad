"""Made-up evaluations: the three files of reports/, with any scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FACES = tuple(f"{i:05d}" for i in range(40))


def scores(mean: float, *, seed: int = 0, spread: float = 0.05, faces: Sequence[str] = FACES) -> dict[str, float]:
    """SSIM of each face; with one seed the same faces are hard for all models."""
    noise = np.random.default_rng(seed).normal(0, spread, len(faces))
    return dict(zip(faces, (mean + noise - noise.mean()).tolist(), strict=True))


def metrics(
    ssim: float = 0.6, accuracy: float = 0.9, ceiling: float = 0.8, transfer: float | None = 0.9
) -> dict[str, Any]:
    rows = {
        "style_blind": {"ssim": 0.4, "psnr": 14.0, "miou": 0.7, "accuracy": 0.5},
        "own_colours": {"ssim": 0.5, "psnr": 17.0, "miou": 0.6, "accuracy": 0.6},
        "model": {"ssim": ssim, "psnr": 20.0, "miou": 0.5, "accuracy": accuracy},
        "ceiling": {"ssim": ceiling, "psnr": 26.0, "miou": 0.6, "accuracy": 0.95},
    }
    swap = {} if transfer is None else {"total_swap": {"model": {"transfer": transfer, "leakage": 0.05}}}
    return {"reconstruction": rows} | swap


def write(
    folder: Path,
    ssim: float = 0.6,
    *,
    split: str = "same",
    by_face: Mapping[str, float] | None = None,
    run: str = "0123456789abcdef0123456789abcdef",
    **changes: Any,
) -> Path:
    """The folder, with metrics.json, evaluation.json and faces.csv in it; `run` is the MLflow run that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    by_face = scores(ssim) if by_face is None else by_face
    facts = {
        "run_key": "ab" * 8,
        "weights_sha256": "cd" * 32,
        "mlflow_run": run,
        "test_split": split,
        "faces": len(by_face),
        "parser": "small-64",
        "ssim_share": (ssim - 0.4) / 0.4,
    }
    lines = ["id,row,ssim,psnr,accuracy,miou"]
    for face, value in by_face.items():
        lines += [f"{face},model,{value!r},20.0,0.9,0.5", f"{face},ceiling,0.8,26.0,0.95,0.6"]
    (folder / "metrics.json").write_text(json.dumps(metrics(ssim, **changes)))
    (folder / "evaluation.json").write_text(json.dumps(facts))
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    return folder
