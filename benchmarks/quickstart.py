"""What each choice of the quickstart is worth: one short `dvc exp run` for each, that differs from the reference by it.

    python -m benchmarks.quickstart                  # all of them: about an hour on two cores
    python -m benchmarks.quickstart --only "noise prediction, as the paper" "batch of 16"

Every experiment is the default configuration with 580 steps of training, or as many as take the same time, and is
measured on 60 test faces and with one seed. It runs in a folder of its own (`dvc exp run --temp`), so the workspace
stays as it is; in the MLflow UI it can be compared like any other run, and `dvc exp show` lists it. One that was run
before with the same parameters and code is not trained again. The table is printed, and kept in
`benchmarks/quickstart.json` and `.md`.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dvc.api

SHORT = ("training.steps=580", "evaluation.samples=60", "monitoring.sample_every=10000")

CHOICES: dict[str, tuple[str, ...]] = {
    "reference": (),
    "noise prediction, as the paper": ("diffusion.prediction=epsilon",),
    "half without a reference, as the paper": ("diffusion.no_reference=0.5",),
    "three style scales, none of colour": (
        "model.style_encoder.scales=3",
        "model.style_encoder.colour_scale=false",
        "training.steps=480",
    ),
    "a style encoder of four levels": ("model.style_encoder.downsamplings=4",),
    "masks resized by nearest": ("model.unet.mask_resize=nearest",),
    "a norm's group for each channel": ("model.unet.groups=32",),
    "half the learning rate": ("training.learning_rate=2e-3",),
    "a constant learning rate": ("training.decay=constant",),
    "batch of 16": ("training.batch_size=16", "training.micro_batch=8", "training.steps=290"),
    "48 channels": ("model.unet.channels=48", "model.unet.head_channels=48", "training.steps=430"),
    "min-SNR weighting": ("diffusion.min_snr_gamma=5",),
    "autoencoder without noise": ("autoencoder.training.latent_noise=0",),
    "autoencoder without a continuous start": ("autoencoder.training.continuous_share=0",),
    "autoencoder with 512 codes": ("autoencoder.network.codes=512",),
    "guidance 0.2 instead of 0.5": ("sampling.guidance_scale=0.2",),
    "20 steps of sampling": ("sampling.steps=20",),
}
"""Name -> the parameters that differ from the reference."""

COLUMNS = ("SSIM", "PSNR", "share", "mIoU", "transfer", "leakage", "ceiling SSIM", "ceiling PSNR")


def experiment(name: str) -> str:
    """A choice's name as DVC takes one."""
    return "quickstart-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def run(name: str, changes: Sequence[str]) -> dict[str, Any]:
    """Run one experiment, and return its reports/metrics.json."""
    flags = [flag for change in (*SHORT, *changes) for flag in ("-S", change)]
    print(f"== {name}: dvc exp run {' '.join(flags)}", flush=True)
    # An older one of the same name would be in the way; there may be none.
    subprocess.run(["dvc", "exp", "remove", experiment(name)], check=False, capture_output=True)
    subprocess.run(["dvc", "exp", "run", "--temp", "--name", experiment(name), *flags, "register"], check=True)
    return dvc.api.metrics_show(rev=experiment(name))


def row(metrics: dict[str, Any]) -> dict[str, float]:
    """The table's columns from a metrics.json."""
    rows, swap = metrics["reconstruction"], metrics["partial_swap"]["hair"]
    model, ceiling, blind = rows["model"], rows["ceiling"], rows["style_blind"]
    values = (
        model["ssim"],
        model["psnr"],
        (model["ssim"] - blind["ssim"]) / (ceiling["ssim"] - blind["ssim"]),
        model["miou"],
        swap["transfer"],
        swap["leakage"],
        ceiling["ssim"],
        ceiling["psnr"],
    )
    return dict(zip(COLUMNS, values, strict=True))


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for name, values in found.items():
        cells = (f"{values[column]:.{1 if 'PSNR' in column else 3}f}" for column in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHOICES, metavar="NAME", help="; ".join(CHOICES))
    parser.add_argument(
        "--to", type=Path, default=Path("benchmarks/quickstart"), help="the table, without .json or .md"
    )
    asked = parser.parse_args()
    kept = asked.to.with_suffix(".json")
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in asked.only or CHOICES:
        try:
            found[name] = row(run(name, CHOICES[name]))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{name}: {' '.join(error.cmd[:3])} ended with {error.returncode}; its own message is above")
        found = {choice: found[choice] for choice in CHOICES if choice in found}
        kept.write_text(json.dumps(found, indent=1) + "\n")
        asked.to.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
