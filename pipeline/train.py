"""Train SCA-DM on the latent shards, by Ray Train; run again, it resumes."""

import json
from functools import cache, partial

from scadm import initial, lineage, tracking
from scadm.cluster.train import run_training
from scadm.files import checkpoint
from scadm.files.manifest import digest, require_same
from scadm.files.store import Store
from scadm.stage import Stage, run
from scadm.training import curves, journal
from scadm.training.estimate import describe, estimate
from scadm.training.job import TrainJob


def main(stage: Stage) -> None:
    params, key, first = stage.params, stage.run_key, None
    if params.training.init_from is not None:
        uri = tracking.tracking_uri(params.tracking, stage.home)
        first = initial.find(
            params.training.init_from, tracking_uri=uri, storage_root=stage.storage_root, home=stage.home
        )
        key = digest({"stage": key, "initial": checkpoint.digest_of(Store(first))})[:16]
    shards, autoencoder = stage.place("data/shards"), stage.place("models/autoencoder")
    data, own = stage.manifest("data/shards"), stage.manifest("models/autoencoder").autoencoder
    require_same("the autoencoder of data/shards", data.autoencoder, own, "Run `dvc repro latents`.")
    place = Store(f"{stage.storage_root}/runs/{key}")
    job = TrainJob.of(params, data, run=place.root, shards=shards, autoencoder=autoencoder, initial=first)
    cost = estimate(params.model, job.latent_channels, job.resolution, params.training)
    stage.say(f"run key {key}, {len(data.splits['train'])} faces")
    stage.say(describe(cost, params.training, workers=params.cluster.workers, use_gpu=params.cluster.use_gpu))
    logged = {
        "name": f"{params.project.data_name}-{job.resolution}-{key[:6]}",
        "params": params.model_dump(mode="json"),
        "tags": lineage.tags(stage.workspace, data.digest),
        "dataset": (params.project.data_name, shards, data.digest),
    }
    # Once: at the end of a training, MLflow may be away.
    open_run = cache(partial(tracking.open_run, params.tracking, stage.home, key, **logged))
    final = place / "final"
    if checkpoint.is_complete(final):
        stage.say(f"run {key} is finished: its weights are in {final.root}")
    else:
        run_training(job, params.cluster, open_run, params.tracking.machine_metrics_s)
    tracked = open_run()
    with tracking.ending(tracked):
        if sent := tracking.replay(tracked, journal.read(place)):
            stage.say(f"{sent} rows of metrics were sent to MLflow afterwards")
        tracking.keep_weights(tracked, final)
    curves.write(place, stage)
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
