"""Train SCA-DM on the latent shards, by Ray Train; run again, it resumes."""

import json

from scadm import checkpoint, lineage, tracking
from scadm.cluster.train import run_training
from scadm.first_stage import LatentScale
from scadm.manifest import Manifest, require_same
from scadm.stage import Stage, run
from scadm.training import curves
from scadm.training.estimate import describe, estimate
from scadm.training.loop import TrainJob


def main(stage: Stage) -> None:
    params = stage.params
    data = Manifest.read(stage.path("data/shards"))
    require_same("the resolution of data/shards", data.resolution, params.project.resolution, "Run `dvc repro`.")
    autoencoder = Manifest.read(stage.path("models/autoencoder"))
    require_same(
        "the autoencoder of data/shards",
        data.autoencoder,
        autoencoder.autoencoder,
        "Run `dvc repro latents`.",
    )
    assert data.latent_mean is not None and data.latent_std is not None and data.autoencoder is not None
    channels = len(data.latent_mean)
    scaled = params.diffusion.normalise_latents
    key = stage.run_key
    job = TrainJob(
        run=f"{stage.storage_root}/runs/{key}",
        shards=str(stage.path("data/shards")),
        autoencoder=str(stage.path("models/autoencoder")),
        autoencoder_fingerprint=data.autoencoder,
        resolution=params.project.resolution,
        latent_channels=channels,
        scale=LatentScale(data.latent_mean, data.latent_std) if scaled else LatentScale.identity(channels),
        seed=params.project.seed,
        model=params.model,
        diffusion=params.diffusion,
        training=params.training,
        monitoring=params.monitoring,
        sampling=params.sampling,
        loader_threads=params.cluster.loader_threads,
    )
    final = checkpoint.Store(job.run) / "final"
    finished = checkpoint.is_complete(final)
    cost = estimate(params.model, channels, params.project.resolution, params.training)
    stage.say(f"run key {key}, {len(data.splits['train'])} faces")
    stage.say(describe(cost, params.training, workers=params.cluster.workers, use_gpu=params.cluster.use_gpu))
    tracked = tracking.open_run(
        params.tracking,
        stage.home,
        key,
        name=f"{params.project.data_name}-{params.project.resolution}-{key[:6]}",
        params=params.model_dump(mode="json"),
        tags=lineage.tags(stage.workspace, data.digest),
        dataset=(params.project.data_name, str(stage.path("data/shards")), data.digest),
    )
    if finished:
        stage.say(f"run {key} is finished: its weights are in {final.root}")
    else:
        with tracking.ending(tracked):
            run_training(job, params.cluster, tracked)
            tracking.keep_weights(tracked, final)
    curves.write(checkpoint.Store(job.run), stage)
    result = {
        "run_key": key,
        "weights": f"runs/{key}/final",  # below the storage root
        "sha256": checkpoint.digest_of(final),
        "mlflow_run": tracked.run_id,
        "data": data.digest,
    }
    stage.write("models/train.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run("train", main)
