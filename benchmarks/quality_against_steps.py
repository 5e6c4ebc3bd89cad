"""How close each solver comes, in few steps, to DDIM with all of them (1000).

    python -m benchmarks.quality_against_steps                        # the project's model; 15 minutes on one core
    python -m benchmarks.quality_against_steps --faces 8 --steps 10 20 50 --kinds ddim/published dpm-solver++/logsnr
    python -m benchmarks.quality_against_steps --weights storage/runs/KEY/final --autoencoder models/autoencoder

Test faces are reconstructed from their own masks and styles, each from the same noise every time, with the guidance of
params.yaml. The table has the distance to the reference: root mean square of the latents as the model sees them, over
all faces and of the median face; PSNR (of the mean square over all faces) and mean SSIM of the decoded images; and the
seconds that an image takes, without its decoding. It is printed, and kept in `benchmarks/quality_against_steps.json`
and `.md`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scadm.config import DiffusionConfig, SamplingConfig
from scadm.data.shards import ShardReader
from scadm.diffusion.solvers import timesteps
from scadm.evaluation.metrics import psnr, ssim
from scadm.files.checkpoint import digest_of
from scadm.files.store import Store
from scadm.models.scadm import to_one_hot
from scadm.pixels import Images, Labels
from scadm.progress import bar
from scadm.synthesis import CHUNK, Synthesiser, load_synthesiser

KINDS = tuple(
    f"{solver}/{spacing}" for solver in ("ddim", "dpm-solver++") for spacing in ("published", "trailing", "logsnr")
)
STEPS = (5, 10, 15, 20, 25, 50, 100, 200)


@dataclass(frozen=True)
class Row:
    solver: str
    spacing: str
    steps: int
    rmse: float
    median_rmse: float
    psnr: float | None
    """In decibels; None where every image equals the reference's."""
    ssim: float
    seconds: float


@dataclass(frozen=True)
class Sampled:
    latents: Tensor
    """(N, C, h, w), as the model sees them."""
    images: Images
    seconds: float
    """For one image."""


def reference_of(sampling: SamplingConfig, diffusion: DiffusionConfig) -> SamplingConfig:
    """DDIM at every timestep, with the guidance of `sampling`."""
    every = {"solver": "ddim", "spacing": "published", "steps": diffusion.timesteps, "eta": 0.0}
    return sampling.model_copy(update=every)


def plans(
    sampling: SamplingConfig, diffusion: DiffusionConfig, kinds: Sequence[str], steps: Sequence[int]
) -> list[SamplingConfig]:
    """Every kind with every number of steps, but for those that its spacing refuses."""
    found = []
    for kind in kinds:
        solver, spacing = kind.split("/")
        for count in steps:
            plan = sampling.model_copy(update={"solver": solver, "spacing": spacing, "steps": count, "eta": 0.0})
            try:
                timesteps(diffusion, plan)
            except ValueError as refused:
                print(f"without {kind} in {count} steps: {refused}", file=sys.stderr)
            else:
                found.append(plan)
    return found


def measure(
    synthesiser: Synthesiser, images: Images, labels: Labels, chosen: Sequence[SamplingConfig]
) -> Iterator[Row]:
    """A row for each plan: faces (N, H, W, 3) with masks (N, H, W), sampled from the seeds 0 .. N - 1."""
    style = synthesiser.encode_style(images, labels)
    mask = to_one_hot(torch.from_numpy(labels).to(synthesiser.device))
    reference_plan = reference_of(synthesiser.sampling, synthesiser.diffusion)
    total = len(labels) * sum(plan.steps for plan in [reference_plan, *chosen])

    with bar(total, "sampling", "steps of a face") as progress:

        def run(plan: SamplingConfig) -> Sampled:
            planned, parts, seconds = replace(synthesiser, sampling=plan), [], 0.0
            for start in range(0, len(labels), CHUNK):
                seeds = range(len(labels))[start : start + CHUNK]
                began = time.perf_counter()
                latents = planned.latents(style[start : start + CHUNK], mask[start : start + CHUNK], seeds)
                parts.append(latents.cpu())  # which waits for the device
                seconds += time.perf_counter() - began
                progress.update(plan.steps * len(seeds))
            latents = torch.cat(parts)
            pictures = [synthesiser.decode(synthesiser.scale.to_stored(part.to(synthesiser.device))) for part in parts]
            return Sampled(latents, np.concatenate(pictures), seconds / len(labels))

        reference = run(reference_plan)
        for plan in chosen:
            found = run(plan)
            by_face = (found.latents - reference.latents).double().square().mean(dim=(1, 2, 3))
            # The mean square of all faces: a decoder that quantises can give some of them exactly.
            error = np.mean(10 ** (-psnr(found.images, reference.images) / 10))
            yield Row(
                solver=plan.solver,
                spacing=plan.spacing,
                steps=plan.steps,
                rmse=by_face.mean().sqrt().item(),
                median_rmse=by_face.sqrt().median().item(),
                psnr=float(-10 * np.log10(error)) if error > 0 else None,
                ssim=float(ssim(found.images, reference.images).mean()),
                seconds=found.seconds,
            )


def table(rows: Sequence[Row], caption: str) -> str:
    """Markdown."""
    lines = [
        f"# Quality against steps\n\n{caption}\n",
        "| solver | spacing | steps | RMSE | median RMSE | PSNR | SSIM | s an image |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        decibels = "equal" if row.psnr is None else f"{row.psnr:.1f}"
        lines.append(
            f"| {row.solver} | {row.spacing} | {row.steps} | {row.rmse:.4f} | {row.median_rmse:.4f} | {decibels} "
            f"| {row.ssim:.4f} | {row.seconds:.2f} |"
        )
    return "\n".join(lines) + "\n"


def trained_weights() -> str:
    """Where the weights that models/train.json names are. Imports MLflow, from whose artifacts they may come."""
    from scadm import tracking
    from scadm.stage import Stage

    stage = Stage("evaluate")
    trained = stage.read_json("models/train.json")
    tracked = tracking.Tracked(tracking.tracking_uri(stage.params.tracking, stage.home), trained["mlflow_run"])
    return tracking.find_weights(trained, stage.storage_root, tracked, stage.home / ".work")


def main() -> None:
    from scadm.config import load_params

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="path or URI of a run's final checkpoint; the project's, if left out")
    parser.add_argument("--autoencoder", type=Path, default=Path("models/autoencoder"), help="(%(default)s)")
    parser.add_argument("--shards", default="data/shards", help="their test split is sampled (%(default)s)")
    parser.add_argument("--faces", type=int, default=24, help="(%(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="N", help=f"{STEPS}")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_suffix(""),
        help="the table, without .json and .md (%(default)s)",
    )
    arguments = parser.parse_args()
    try:
        weights = arguments.weights or trained_weights()
        sampling = load_params().sampling
        synthesiser = load_synthesiser(weights, arguments.autoencoder, sampling, torch.device(arguments.device))
        reader = ShardReader(arguments.shards, "test")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    count = min(arguments.faces, len(reader))
    images, labels = reader.batch(range(count))
    chosen = plans(sampling, synthesiser.diffusion, arguments.kinds, arguments.steps)
    rows = list(measure(synthesiser, images, labels, chosen))

    settings = {
        "weights_sha256": digest_of(Store(weights)),
        "faces": count,
        "guidance_scale": sampling.guidance_scale,
        "guidance_interval": sampling.guidance_interval,
        "device": torch.cuda.get_device_name() if synthesiser.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
    text = table(
        rows,
        f"Distance to DDIM with {synthesiser.diffusion.timesteps} steps, of {count} test faces; guidance scale "
        f"{sampling.guidance_scale}, {settings['device']}, {settings['threads']} threads, {CHUNK} faces at a time.",
    )
    print(text)
    tree = {**settings, "rows": [asdict(row) for row in rows]}
    arguments.out.with_suffix(".json").write_text(json.dumps(tree, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
