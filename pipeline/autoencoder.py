"""Train the small VQ autoencoder on the train split, or take a pretrained VQ-f4 in."""

from pathlib import Path

import pandas as pd

from scadm.data.tables import FaceTable
from scadm.first_stage import import_vq_f4, save_small
from scadm.manifest import Manifest, describe_files
from scadm.progress import bar
from scadm.stage import Stage, run
from scadm.training.autoencoder import fit_autoencoder, reconstruction_ssim


def main(stage: Stage) -> None:
    tables = stage.path("data/onehot")
    data = Manifest.read(tables)
    config = stage.params.autoencoder
    work = stage.work_folder()
    if config.kind == "vq-f4":
        mark = import_vq_f4(work, stage.data / (config.weights or ""))
        history = [{"step": 0, "loss": 0.0, "ssim": 0.0}]
    else:
        with bar(config.training.steps, "autoencoder", "steps") as progress:

            def on_step(row: dict[str, float]) -> None:
                progress.set_postfix_str(f"SSIM {row['ssim']:.3f}", refresh=False)
                progress.update(1)

            train = FaceTable(tables, "train")
            model, history = fit_autoencoder(train, config, stage.params.project.seed, on_step)
        mark = save_small(work, model)
        validation = reconstruction_ssim(model, FaceTable(tables, "validation"), 64)
        stage.say(f"round trip of validation faces: SSIM {validation:.3f}")
    stage.write("reports/autoencoder.csv", pd.DataFrame(history).to_csv(index=False))
    names = [path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()]
    manifest = Manifest(
        stage=stage.name,
        resolution=data.resolution,
        inputs=stage.inputs,
        files=describe_files(work, [name for name in names if not Path(name).name.startswith("manifest")]),
        autoencoder=mark,
    )
    stage.publish(work, "models/autoencoder", manifest)


if __name__ == "__main__":
    run("autoencoder", main)
