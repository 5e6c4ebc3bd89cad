"""Stage `masks`: the archive's faces at the model's resolution with their one-hot masks, as Parquet parts."""

from pathlib import Path

from scadm import faces
from scadm.cluster.data import map_tasks
from scadm.data.archive import FaceArchive
from scadm.data.parts import make_part, part_tasks, require_rows
from scadm.data.splits import assign
from scadm.data.tables import FaceTable
from scadm.files.manifest import SPLITS, Manifest, Split, describe_files
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    params = stage.params
    raw = Manifest.read(stage.path("data/raw"))
    archive = FaceArchive(stage.path("data/raw/archive.zip"))
    ids = archive.select(params.data.known_bad)
    mapping = archive.mapping() if params.data.split.rule == "official" else {}
    splits = assign(ids, params.data.split, params.project.seed, mapping)

    work = stage.work_folder()
    resolution = params.project.resolution
    tasks = part_tasks(archive, splits, resolution, params.masks, work)
    reports = map_tasks(
        lambda: make_part,
        tasks,
        cluster=params.cluster,
        use_gpu=False,
        folder=work,
        what="masks",
        unit="faces",
        weight=lambda task: len(task["ids"]),
        spread=stage.spread(work, ["data/raw"]),
        makes=lambda task: Path(task["path"]).name,
    )
    table = FaceTable(work, None)
    require_rows(ids, table.ids, work)

    by_split: dict[Split, tuple[str, ...]] = {split: tuple(id for id in ids if splits[id] == split) for split in SPLITS}
    shown = (table.pixels > 0).sum(axis=0).tolist()
    manifest = Manifest(
        stage="masks",
        source=raw.source,
        resolution=resolution,
        counts={"faces": len(ids)}
        | {split: len(members) for split, members in by_split.items()}
        | {f"faces_with_{name}": count for name, count in zip(faces.LABELS, shown, strict=True)},
        splits=by_split,
        inputs={"data/raw": raw.digest},
        files=describe_files(work, [report.name for report in reports]),
    )
    stage.publish(work, "data/onehot", manifest)


if __name__ == "__main__":
    run("masks", main)
