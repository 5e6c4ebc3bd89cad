"""Stage `download`: one archive of faces, drawn, packed or copied, every face in it known to be complete."""

from scadm.data import source
from scadm.data.archive import FaceArchive
from scadm.data.folder import count_images, pack_folder
from scadm.data.synthetic import write_archive, write_factors
from scadm.manifest import Manifest, describe_files
from scadm.progress import bar
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    data, seed = stage.params.data, stage.params.project.seed
    given = stage.path(data.path)
    if data.source != "synthetic":
        source.require_local(data.path, given)
    work = stage.work_folder()
    archive_path = work / "archive.zip"
    files = [archive_path.name]
    if data.source == "synthetic":
        count, size = data.synthetic.count, data.synthetic.image_size
        with bar(count, "faces", "faces") as progress:
            write_archive(
                archive_path,
                seed=seed,
                count=count,
                image_size=size,
                progress=lambda finished: progress.update(finished - progress.n),
            )
        write_factors(work / "factors.parquet", seed=seed, count=count)
        files.append("factors.parquet")
    elif data.source == "folder":
        with bar(count_images(given), "faces", "faces") as progress:
            pack_folder(given, archive_path, progress.update)
    else:
        with FaceArchive(given) as archive:  # a fault shows before gigabytes are copied
            archive.select(data.known_bad)
        with bar(given.stat().st_size, "copy", "bytes") as progress:
            source.copy(given, archive_path, progress.update)

    with FaceArchive(archive_path) as archive:
        complete = archive.select(data.known_bad)
        counts = {"faces": len(archive.ids), "mask_files": archive.mask_files}
    stage.say(f"{counts['faces']} faces, {len(complete)} of them to be used, each with an image and masks")
    manifest = Manifest(stage="download", source=data.source, counts=counts, files=describe_files(work, files))
    stage.publish(work, "data/raw", manifest)


if __name__ == "__main__":
    run("download", main)
