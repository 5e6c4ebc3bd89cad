"""Making the one-hot tables part by part, so that the work can be spread, and continued after a kill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scadm.config import MasksConfig
from scadm.data import pictures
from scadm.data.archive import FaceArchive, FaceFiles
from scadm.data.ids import some
from scadm.data.tables import Face, is_whole, part_name, write_part
from scadm.files.manifest import Split

MaskResize = Literal["nearest", "area"]


@dataclass(frozen=True)
class PartReport:
    """What a part holds, in the order of its rows."""

    name: str
    ids: tuple[str, ...]


def read_face(
    files: FaceFiles, id: str, resolution: int, resize: MaskResize
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A face at the model's resolution: RGB (H, W, 3), antialiased bicubic, and class ids (H, W) as `resize` says.

    Raises ValueError naming the face if it cannot be read, or is smaller than `resolution`.
    """
    image, labels = files.face(id)
    small = pictures.at_resolution(image, resolution, f"face {id} of {files.path}")
    return small, resized(labels, resolution, resize)


def resized(labels: NDArray[np.uint8], resolution: int, resize: MaskResize) -> NDArray[np.uint8]:
    """Class ids (H, W) at a resolution, without mixing ids.

    `nearest` takes the id at each new pixel's centre. `area` takes the class that covers the largest part of the new
    pixel, the first of those that cover as much, so that what is thin is lost only where something else prevails.
    """
    size = (resolution, resolution)
    if resize == "nearest":
        return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    shown = np.unique(labels)
    masks = [Image.fromarray((labels == k).astype(np.float32)) for k in shown]
    areas = np.stack([np.asarray(mask.resize(size, Image.Resampling.BOX)) for mask in masks])
    return shown[areas.argmax(axis=0)].astype(np.uint8)


def part_tasks(
    archive: FaceArchive, splits: Mapping[str, Split], resolution: int, config: MasksConfig, folder: Path
) -> list[dict[str, Any]]:
    """The arguments of `make_part` for each range of `rows_per_part` rows or fewer, in the splits' order."""
    ids = list(splits)
    tasks = []
    for first in range(0, len(ids), config.rows_per_part):
        part = ids[first : first + config.rows_per_part]
        tasks.append(
            {
                "files": archive.some(part),
                "ids": part,
                "splits": [splits[id] for id in part],
                "resolution": resolution,
                "resize": config.resize,
                "path": str(folder / part_name(first, first + len(part) - 1)),
            }
        )
    return tasks


def make_part(
    files: FaceFiles,
    ids: Sequence[str],
    splits: Sequence[Split],
    resolution: int,
    resize: MaskResize,
    path: Path | str,
) -> PartReport:
    """Make the part `path` of the faces `ids` with the split of each; one that is already whole is kept.

    Raises ValueError naming the face that cannot be read; the part is then not written.
    """
    path = Path(path)
    if not is_whole(path, ids, splits, resolution):
        rows = (
            Face(id, split, *read_face(files, id, resolution, resize)) for id, split in zip(ids, splits, strict=True)
        )
        write_part(path, rows, resolution)
    return PartReport(path.name, tuple(ids))


def require_rows(went_in: Sequence[str], came_out: Sequence[str], folder: Path) -> None:
    """Raise ValueError listing what was lost or added, unless the same ids came out in the same order."""
    if tuple(went_in) != tuple(came_out):
        lost, added = set(went_in) - set(came_out), set(came_out) - set(went_in)
        raise ValueError(
            f"{len(went_in)} faces went in and {len(came_out)} came out (lost: {some(lost) or 'none'}; "
            f"added: {some(added) or 'none'}), expected the same in the same order. The tables in {folder} "
            "are not those of the archive: delete that folder and run the stage again."
        )
