"""Encode every face into webdataset shards, with an index of byte offsets and the train split's statistics."""

from scadm.cluster.data import map_tasks_with
from scadm.data.latents import ShardMaker, ShardReport, statistics
from scadm.data.shards import INDEX, read_offsets, write_index
from scadm.manifest import SPLITS, Manifest, describe_files, require_same
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    data = Manifest.read(stage.path("data/onehot"))
    autoencoder = Manifest.read(stage.path("models/autoencoder"))
    config, cluster = stage.params.latents, stage.params.cluster
    work = stage.work_folder()
    tasks = [
        {
            "split": split,
            "start": start,
            "stop": min(start + config.samples_per_shard, len(data.splits[split])),
        }
        for split in SPLITS
        for start in range(0, len(data.splits[split]), config.samples_per_shard)
    ]
    reports: list[ShardReport] = map_tasks_with(
        ShardMaker,
        {
            "tables": str(stage.path("data/onehot")),
            "autoencoder": str(stage.path("models/autoencoder")),
            "work": str(work),
            "flip": config.flip,
            "batch_size": config.batch_size,
            "use_gpu": cluster.use_gpu,
        },
        tasks,
        cluster=cluster,
        what="latents",
        unit="faces",
        weight=lambda task: task["stop"] - task["start"],
    )
    for split in SPLITS:
        written = [key for report in reports if report.name.startswith(f"{split}-") for key in report.ids]
        require_same(
            f"the ids in the {split} shards",
            written,
            list(data.splits[split]),
            f"Delete {work} and run again.",
        )
    mean, std = statistics([report for report in reports if report.name.startswith("train-")])
    stage.say(
        "train latents: mean " + ", ".join(f"{m:.3f}" for m in mean) + "; std " + ", ".join(f"{s:.3f}" for s in std)
    )
    write_index(work / INDEX, {report.name: read_offsets(work / report.name) for report in reports})
    manifest = Manifest(
        stage=stage.name,
        resolution=data.resolution,
        counts={"faces": sum(map(len, data.splits.values())), "shards": len(reports)},
        splits=data.splits,
        inputs=stage.inputs,
        files=describe_files(work, [INDEX, *(report.name for report in reports)]),
        source=data.source,
        autoencoder=autoencoder.autoencoder,
        latent_mean=mean,
        latent_std=std,
    )
    stage.publish(work, "data/shards", manifest)


if __name__ == "__main__":
    run("latents", main)
