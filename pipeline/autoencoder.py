"""Train the small VQ autoencoder on the train split and the extra images, take a pretrained VQ-f4 in, or do without."""

from pathlib import Path

import pandas as pd

from scadm.data.extra import read_extra
from scadm.data.tables import FaceTable
from scadm.files.manifest import SPLITS, Manifest, describe_files
from scadm.first_stage import import_vq_f4, save_pixels, save_small
from scadm.pixels import JoinedImages
from scadm.pretrained import FORMS, open_vq_f4
from scadm.progress import bar
from scadm.stage import Stage, run
from scadm.training.autoencoder import fit_autoencoder, reconstruction_ssim


def main(stage: Stage) -> None:
    tables = stage.path("data/onehot")
    data = Manifest.read(tables)
    config = stage.params.autoencoder
    counts = {}
    history = [{"step": 0, "loss": 0.0, "ssim": 0.0}]
    if config.kind == "pixels":
        work = stage.work_folder()
        mark = save_pixels(work)
    elif config.kind == "vq-f4":
        if not config.weights:
            raise ValueError(f"autoencoder.kind is vq-f4, but autoencoder.weights is null, expected {FORMS}.")
        weights = stage.located(config.weights, config.weights_sha256)
        work = stage.work_folder()
        mark = import_vq_f4(work, open_vq_f4(weights))
    else:
        train, validation, test = (FaceTable(tables, split) for split in SPLITS)
        extra = read_extra(stage.path(config.extra_images), train.resolution, [validation, test])
        counts = {"extra_images": len(extra), "extra_left_out": len(extra.left_out)}
        stage.say(extra.summary)
        work = stage.work_folder()
        with bar(config.training.steps, "autoencoder", "steps") as progress:

            def on_step(row: dict[str, float]) -> None:
                progress.set_postfix_str(f"SSIM {row['ssim']:.3f}", refresh=False)
                progress.update(1)

            images = JoinedImages(train, extra)
            model, history = fit_autoencoder(images, config, stage.params.project.seed, on_step)
        mark = save_small(work, model)
        stage.say(f"round trip of validation faces: SSIM {reconstruction_ssim(model, validation, 64):.3f}")
    stage.write("reports/autoencoder.csv", pd.DataFrame(history).to_csv(index=False))
    names = [path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()]
    manifest = Manifest(
        stage=stage.name,
        resolution=data.resolution,
        counts=counts,
        inputs=stage.inputs,
        files=describe_files(work, [name for name in names if not Path(name).name.startswith("manifest")]),
        autoencoder=mark,
    )
    stage.publish(work, "models/autoencoder", manifest)


if __name__ == "__main__":
    run("autoencoder", main)
