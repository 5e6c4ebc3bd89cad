"""How style reaches its part: three forms of mask attention and SDM, trained alike, as DVC experiments.

    make ablation                                     # 13 trainings: about an hour on two cores
    python -m benchmarks.ablation --forms hard none   # fewer
    python -m benchmarks.ablation --seeds 0 1 2 3 4   # more

Every experiment is the configuration of params.yaml with the steps of `--steps`, and a form and a seed of the training;
data, autoencoder and parser are the same for all. It runs in a folder of its own (`dvc exp run --temp`), so the
workspace stays as it is, up to and with the stage `evaluate`: nothing is registered. One that was run before with the
same parameters and code is not run again. The table goes to comparisons/ablation.json, from where the report of the
same data takes it (`dvc repro report`), to benchmarks/ablation.md, and is printed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dvc.api
import numpy as np
from scipy import stats

from scadm.config import ProjectConfig, load_params
from scadm.files.manifest import write_atomically

STEPS, SEEDS = 580, (0, 1, 2)
SHORT = ("monitoring.sample_every=10000", "evaluation.samples=60", "evaluation.steps=[]", "evaluation.interpolated=0")
"""Of every experiment: what the table does not show is not measured."""

FORMS: dict[str, tuple[str, ...]] = {
    "hard": ("model.unet.mask_attention=hard",),
    "soft": ("model.unet.mask_attention=soft",),
    "none": ("model.unet.mask_attention=none",),
    "sdm": ("model.method=sdm",),
    "sdm-pixels": ("model.method=sdm", "autoencoder.kind=pixels"),
}
"""Name -> the parameters that make it."""

_FIRST_SEED_ONLY = ("sdm-pixels",)

MEANINGS = {
    "hard": "SCA-DM as the authors' code has it: a pixel attends to its own part's style code alone",
    "soft": "SCA-DM with Eq. 8 as printed: the mask multiplies the logits, so other parts still weigh exp(0)",
    "none": "the paper's ablation: cross-attention that no mask restricts",
    "sdm": "the baseline of the mask alone on the same latents. It differs from the published SDM: of the size, the "
    "schedule and the training of the others here, on latents instead of pixels, with a feed-forward layer after each "
    "self-attention, and without learnt variances",
    "sdm-pixels": "the same on pixels, the 16 of a 4 x 4 cell being its channels, with the same number of weights but "
    "for the first and last layer; the published one works at the full resolution of the pixels. One training",
}

COLUMNS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "ssim": ("SSIM", ("reconstruction", "model", "ssim")),
    "psnr": ("PSNR, dB", ("reconstruction", "model", "psnr")),
    "miou": ("mIoU", ("reconstruction", "model", "miou")),
    "transfer": ("transfer, whole", ("total_swap", "model", "transfer")),
    "transfer_hair": ("transfer, hair", ("partial_swap", "hair", "transfer")),
    "leakage_hair": ("leakage, hair", ("partial_swap", "hair", "leakage")),
    "transfer_eye": ("transfer, left eye", ("partial_swap", "left_eye", "transfer")),
    "leakage_eye": ("leakage, left eye", ("partial_swap", "left_eye", "leakage")),
    "other_eye": ("the other eye", ("partial_swap", "left_eye", "other_side")),
}
"""Name -> its title, and task, row and metric of metrics.json."""


def experiment(form: str, seed: int, steps: int) -> str:
    return f"ablation-{form}-{steps}-{seed}"


def run(form: str, seed: int, steps: int) -> dict[str, Any]:
    """Run one experiment, and return its reports/metrics.json."""
    name = experiment(form, seed, steps)
    changes = (*FORMS[form], f"training.steps={steps}", f"training.seed={seed}", *SHORT)
    flags = [flag for change in changes for flag in ("-S", change)]
    print(f"== {name}: dvc exp run {' '.join(flags)}", flush=True)
    # An older one of the same name would be in the way; there may be none.
    subprocess.run(["dvc", "exp", "remove", name], check=False, capture_output=True)
    subprocess.run(["dvc", "exp", "run", "--temp", "--name", name, *flags, "evaluate"], check=True)
    return json.loads(dvc.api.read("reports/metrics.json", rev=name))


def mean(values: Sequence[float]) -> list[float | None]:
    """Mean, and the ends of its 95 % interval by Student's t; of one value, no ends."""
    middle = float(np.mean(values))
    if len(values) < 2:
        return [middle, None, None]
    if len(set(values)) == 1:  # as of what a form cannot do at all
        return [middle, middle, middle]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=middle, scale=stats.sem(values))
    return [middle, float(low), float(high)]


def summary(found: dict[str, dict[str, dict[str, Any]]], steps: int, project: ProjectConfig) -> dict[str, Any]:
    """What the report of this project shows, from {form: {seed: metrics}}."""
    rows: dict[str, dict[str, list[float | None]]] = {}
    for form, runs in found.items():
        rows[form] = {}
        for column, (_, (task, row, metric)) in COLUMNS.items():
            values = [run.get(task, {}).get(row, {}).get(metric) for run in runs.values()]
            if (there := [value for value in values if value is not None]) and len(there) == len(values):
                rows[form][column] = mean(there)
    seeds = max(len(runs) for runs in found.values())
    return {
        "text": "Models that were trained alike and differ by how the style reaches its part; with the paper's own "
        "case: one eye takes another face's style, and the other eye is looked at.",
        "caption": f"{steps} steps each, {seeds} trainings with other seeds (unless a row says otherwise) on the same "
        "data, measured on 60 test faces. In small print: 95 % intervals of the mean over trainings, by Student's t. "
        "The other eye: its mean change over that of the eye that was swapped. A dash: it does not exist, as nothing "
        "changed.",
        "data_name": project.data_name,
        "resolution": project.resolution,
        "columns": list(COLUMNS),
        "titles": {column: title for column, (title, _) in COLUMNS.items()},
        "meanings": {form: MEANINGS[form] for form in rows},
        "rows": rows,
        "runs": found,
    }


def table(shown: dict[str, Any]) -> str:
    """Markdown."""

    def cell(ends: list[float | None] | None) -> str:
        if ends is None:
            return "-"
        value, low, high = ends
        return f"{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")

    titles = [shown["titles"][column] for column in shown["columns"]]
    lines = ["| | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
    for form, part in shown["rows"].items():
        lines.append(f"| {form} | " + " | ".join(cell(part.get(column)) for column in shown["columns"]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of training; {STEPS}")
    parser.add_argument("--to", type=Path, default=Path("comparisons/ablation.json"), help="the table")
    parser.add_argument("--table", type=Path, default=Path("benchmarks/ablation.md"), help="and as Markdown")
    asked = parser.parse_args()
    project = load_params().project
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for seed in asked.seeds:
        for form in asked.forms:
            if form in _FIRST_SEED_ONLY and seed != asked.seeds[0]:
                continue
            try:
                found.setdefault(form, {})[str(seed)] = run(form, seed, asked.steps)
            except subprocess.CalledProcessError as error:
                sys.exit(f"{form}: {' '.join(error.cmd[:3])} ended with {error.returncode}; its own message is above")
            shown = summary(found, asked.steps, project)
            write_atomically(asked.to, json.dumps(shown, indent=1) + "\n")
            asked.table.write_text(table(shown))
    print(table(shown))
    print(f"{asked.to} and {asked.table} hold it; `dvc repro report` puts it into the report.")


if __name__ == "__main__":
    main()
