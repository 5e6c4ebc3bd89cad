"""Pictures that something else made of the test faces, scored as the rows of the reconstruction are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scadm.data.pictures import at_resolution, decode_image
from scadm.data.shards import ShardReader
from scadm.evaluation.measure import Measure
from scadm.evaluation.scores import Judges, ReadSheet, ScoreSheet
from scadm.evaluation.sheet import join
from scadm.progress import bar

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_BATCH = 32


def find(folder: Path, ids: Sequence[str]) -> list[Path]:
    """The picture of each id in `folder`: ID.png, .jpg, .jpeg or .webp; other files are of no concern.

    Raises ValueError where one is missing, or an id has several.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected one with a picture ID.png for each test face.")
    by_id: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            by_id.setdefault(path.stem, []).append(path)
    missing = [id for id in ids if id not in by_id]
    double = [id for id in ids if len(by_id.get(id, ())) > 1]
    if missing or double:
        raise ValueError(
            f"{folder} lacks the pictures of {len(missing)} of the {len(ids)} test faces ({_some(missing)}) and has "
            f"several of {len(double)} ({_some(double)}), expected one each, named by its id: a mean over others would "
            "not be comparable. Make the missing ones; the ids are in reports/faces.csv."
        )
    return [by_id[id][0] for id in ids]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "") if ids else "none"


def read(path: Path, side: int) -> NDArray[np.uint8]:
    """A picture (side, side, 3), made smaller where it is larger. Raises ValueError where it is none, or not square."""
    image = decode_image(path.read_bytes(), str(path))
    if image.width != image.height or image.width < side:
        raise ValueError(
            f"{path} has {image.width} x {image.height} pixels, expected a square of at least {side} on each side, the "
            "resolution of the comparison: enlarged or distorted, it would be scored for what it is not. Make it anew."
        )
    return at_resolution(image, side, str(path))


def score(judges: Judges, reader: ShardReader, folder: Path, ids: Sequence[str]) -> dict[str, Measure]:
    """Measures of the pictures in `folder` of the faces `ids`, the first ones of `reader`."""
    paths = find(folder, ids)
    scores: list[ScoreSheet] = []
    truths: list[ReadSheet] = []
    with bar(len(ids), "score", "faces") as progress:
        for start in range(0, len(ids), _BATCH):
            positions = list(range(start, min(start + _BATCH, len(ids))))
            images, labels = reader.batch(positions)
            pictures = np.stack([read(paths[p], images.shape[1]) for p in positions])
            scores.append(judges.score(positions, pictures, labels, images))
            truths.append(judges.read(positions, images, labels))
            progress.update(len(positions))
    sheet, truth = join(scores), join(truths)
    return sheet.likeness() | sheet.obedience() | sheet.distances(truth)
