"""Encode every face into webdataset shards, with an index of byte offsets and the train split's statistics."""

from functools import partial

import numpy as np

from scadm.cluster.data import map_tasks
from scadm.data.latents import ShardMaker, ShardReport, require_ids, shard_name, shard_tasks, statistics
from scadm.data.shards import INDEX, Latents, write_index
from scadm.files.manifest import FileEntry, Manifest, describe_files
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    data = Manifest.read(stage.path("data/onehot"))
    autoencoder = Manifest.read(stage.path("models/autoencoder"))
    config, cluster = stage.params.latents, stage.params.cluster
    work = stage.work_folder()
    reports: list[ShardReport] = map_tasks(
        partial(
            ShardMaker,
            tables=str(stage.path("data/onehot")),
            autoencoder=str(stage.path("models/autoencoder")),
            work=str(work),
            config=config,
            use_gpu=cluster.use_gpu,
        ),
        shard_tasks(data.splits, config.samples_per_shard),
        cluster=cluster,
        use_gpu=cluster.use_gpu,
        folder=work,
        what="latents",
        unit="faces",
        weight=lambda task: task["stop"] - task["start"],
        spread=stage.spread(work, stage.inputs),
        makes=lambda task: shard_name(**task),
    )
    require_ids(reports, data.splits, work)
    mean, std = statistics([report for report in reports if report.shard.name.startswith("train-")])
    stage.say(f"train latents by channel: mean {np.round(mean, 3)}, standard deviation {np.round(std, 3)}")
    shards = [report.shard for report in reports]
    write_index(work / INDEX, shards, Latents(autoencoder.autoencoder or "", mean, std))
    manifest = Manifest(
        stage=stage.name,
        resolution=data.resolution,
        counts={"faces": sum(map(len, data.splits.values())), "shards": len(reports)},
        splits=data.splits,
        inputs=stage.inputs,
        files=describe_files(work, [INDEX])
        | {shard.name: FileEntry(sha256=shard.sha256, bytes=shard.bytes) for shard in shards},
        source=data.source,
        autoencoder=autoencoder.autoencoder,
        latent_mean=mean,
        latent_std=std,
    )
    stage.publish(work, "data/shards", manifest)


if __name__ == "__main__":
    run("latents", main)
