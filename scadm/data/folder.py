"""One's own faces: a folder with `images/` and `labels/`, packed into one archive of the labelled layout."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from scadm.data import ids as naming
from scadm.data import pictures

_IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".webp")
_LABEL_TYPES = (".png",)
_HIDDEN = re.compile(r"\..*|Thumbs\.db|desktop\.ini")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip member can have: the same for all, so that equal faces give equal bytes."""


def count_images(folder: Path) -> int:
    """Number of images that `pack_folder` would pack. Raises ValueError if `images/` holds anything else."""
    return len(_files(folder / "images", _IMAGE_TYPES))


def pack_folder(folder: Path, path: Path, progress: Callable[[int], object]) -> int:
    """Pack `images/ID.{jpg,jpeg,png,webp}` and `labels/ID.png` (class ids 0 to 18) into the zip `path`.

    The members are stored as they are, sorted by id; the same files give the same bytes. The archive appears
    whole or not at all. `progress` receives 1 for each face. Returns the number of faces.

    Raises ValueError if an image or its label map is missing, cannot be decoded, does not fit the other or
    has ids that are not classes, or if a folder holds anything else.
    """
    images = _files(folder / "images", _IMAGE_TYPES)
    labels = _files(folder / "labels", _LABEL_TYPES)
    _require_pairs(folder, set(images), set(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
            for id in sorted(images):
                image, label_map = images[id].read_bytes(), labels[id].read_bytes()
                pictures.require_pair(
                    pictures.decode_image(image, str(images[id])),
                    pictures.decode_labels(label_map, str(labels[id])),
                    f"face {id} of {folder}",
                )
                _store(archive, f"images/{id}{images[id].suffix.lower()}", image)
                _store(archive, f"labels/{id}.png", label_map)
                progress(1)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(images)


def _files(folder: Path, types: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder, expected images/ and labels/ in the folder of your faces "
            "(data.path). There is nothing to read: put the images and their label maps there."
        )
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if _HIDDEN.fullmatch(file.name):  # what file managers leave behind
            continue
        if not file.is_file() or file.suffix.lower() not in types:
            raise ValueError(
                f"{file} is not a file of type {', '.join(types)}, as expected in {folder.name}/. It would "
                "be left out: convert it or move it elsewhere."
            )
        naming.require_id(file.stem, str(file))
        if file.stem in found:
            raise ValueError(
                f"{folder} has both {found[file.stem].name} and {file.name} for the id {file.stem}, expected "
                "one. Which of them is meant is unknown: remove the other."
            )
        found[file.stem] = file
    if not found:
        raise ValueError(f"{folder} is empty, expected files of type {', '.join(types)}: put your faces there.")
    return found


def _require_pairs(folder: Path, images: set[str], labels: set[str]) -> None:
    for lacking, found, other in (
        (images - labels, "images without a label map", "label map of the same name in labels/"),
        (labels - images, "label maps without an image", "image of the same name in images/"),
    ):
        if lacking:
            raise ValueError(
                f"{folder} has {found} for {len(lacking)} ids ({naming.some(lacking)}), expected both for "
                f"every face. These faces cannot be learned from: add the {other}, or move the file "
                "elsewhere."
            )


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    info.create_system = 3  # Unix, on every platform
    archive.writestr(info, data)
