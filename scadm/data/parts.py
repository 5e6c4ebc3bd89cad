"""Making the one-hot tables part by part, so that the work can be spread, and continued after a kill."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scadm.data import pictures
from scadm.data.archive import FaceArchive
from scadm.data.ids import some
from scadm.data.tables import Face, is_whole, part_name, write_part
from scadm.manifest import Split


@dataclass(frozen=True)
class PartReport:
    """What a part holds, in the order of its rows."""

    name: str
    ids: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(self.ids)


def read_face(archive: FaceArchive, id: str, resolution: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A face at the model's resolution: RGB (H, W, 3), antialiased bicubic, and class ids (H, W), nearest.

    Raises ValueError naming the face if it cannot be read, or is smaller than `resolution`.
    """
    image, labels = archive.face(id)
    small = pictures.at_resolution(image, resolution, f"face {id} of {archive.path}")
    return small, np.asarray(Image.fromarray(labels).resize((resolution, resolution), Image.Resampling.NEAREST))


def part_tasks(
    archive_path: Path, splits: Mapping[str, Split], resolution: int, rows_per_part: int, folder: Path
) -> list[dict[str, Any]]:
    """The arguments of `make_part` for each range of `rows_per_part` rows or fewer, in the splits' order."""
    ids = list(splits)
    tasks = []
    for first in range(0, len(ids), rows_per_part):
        part = ids[first : first + rows_per_part]
        tasks.append(
            {
                "archive_path": str(archive_path),
                "ids": part,
                "splits": [splits[id] for id in part],
                "resolution": resolution,
                "path": str(folder / part_name(first, first + len(part) - 1)),
            }
        )
    return tasks


def make_part(
    archive_path: Path | str, ids: Sequence[str], splits: Sequence[Split], resolution: int, path: Path | str
) -> PartReport:
    """Make the part `path` of the faces `ids` with the split of each; one that is already whole is kept.

    Raises ValueError naming the face that cannot be read; the part is then not written.
    """
    path = Path(path)
    if not is_whole(path, ids, splits, resolution):
        archive = _open(str(archive_path), Path(archive_path).stat().st_mtime_ns)
        rows = (Face(id, split, *read_face(archive, id, resolution)) for id, split in zip(ids, splits, strict=True))
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


@functools.lru_cache(maxsize=1)
def _open(path: str, changed: int) -> FaceArchive:
    """The archive that this process reads parts from: the directory of 30,000 faces takes seconds to read."""
    return FaceArchive(path)
