"""Stage `download`: one archive of faces, drawn, packed, copied or fetched, every face in it known to be complete."""

from scadm.data import official, source
from scadm.data.archive import FaceArchive
from scadm.files.manifest import Manifest, describe_files
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    data, seed = stage.params.data, stage.params.project.seed
    work = stage.work_folder()
    origin = source.obtain(data, seed, stage.path(data.path), stage.downloads, work, stage.say)
    archive = FaceArchive(work / origin.files[0])
    complete = archive.select(data.known_bad)
    counts = {"faces": len(archive.ids), "mask_files": archive.mask_files}
    if archive.layout == "official":  # how many the published archive has in each is not known: what came is kept
        counts |= {f"mask_files_{folder}": count for folder, count in official.masks_by_folder(archive).items()}
    stage.say(f"{counts['faces']} faces, {len(complete)} of them to be used, each with an image and masks")
    manifest = Manifest(
        stage="download",
        source=data.source,
        address=origin.address,
        terms=origin.terms,
        counts=counts,
        files=describe_files(work, origin.files),
    )
    stage.publish(work, "data/raw", manifest)


if __name__ == "__main__":
    run("download", main)
