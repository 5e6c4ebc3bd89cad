"""The one-hot tables: a folder of Parquet parts, each holding a range of the archive's faces.

A row is `id`, `split`, `image` (RGB at the model's resolution, lossless WebP), `onehot` (19 x H x W bits,
packed in C order) and `pixels` (pixels of each class). Rows keep the archive's order; a part is named by its
range of rows, `part-000000-000127.parquet`, both ends included. The schema's metadata holds the label list
and the resolution.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from scadm import faces
from scadm.files.manifest import Split, require_same

_ROW_GROUP = 16
"""Rows that are read at a time: few, because shuffled batches read single rows."""

_PIXELS = pa.list_(pa.field("element", pa.int32()), faces.NUM_CLASSES)
"""With the field name that Parquet gives it, so that a part reads back with the schema of its writing."""

_DIGITS = [np.flatnonzero(np.arange(faces.NUM_CLASSES) & 1 << digit) for digit in range(5)]
"""The classes that have each binary digit in their id."""

_LABELS, _RESOLUTION = b"scadm.labels", b"scadm.resolution"
_PART = re.compile(r"part-(\d{6,})-(\d{6,})\.parquet")
_STORAGE = {
    "compression": "zstd",
    "write_page_checksum": True,
    "use_dictionary": ["split"],
    "write_statistics": False,  # they would repeat whole images as the least and greatest value of a column
}
_UNREADABLE = (pa.ArrowException, OSError)
_REMAKE = "Delete the folder and run `dvc repro`."


@dataclass(frozen=True)
class Face:
    """A face at the model's resolution: image uint8 (H, W, 3), RGB, and class ids uint8 (H, W)."""

    id: str
    split: Split
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def part_name(first: int, last: int) -> str:
    """File name of the part that holds the rows `first` to `last`, both included."""
    return f"part-{first:06d}-{last:06d}.parquet"


def pack_onehot(labels: NDArray[np.uint8]) -> bytes:
    """Class ids (H, W) as 19 x H x W bits in C order."""
    return np.packbits(labels == np.arange(faces.NUM_CLASSES, dtype=np.uint8)[:, None, None]).tobytes()


def unpack_labels(packed: bytes, resolution: int) -> NDArray[np.uint8]:
    """The inverse of `pack_onehot` for square maps: class ids (H, W)."""
    maps = np.frombuffer(packed, np.uint8).reshape(faces.NUM_CLASSES, -1)
    labels = np.zeros(resolution**2, np.uint8)
    # A binary digit of the id is set where a class with that digit is: 5 maps to unpack instead of 19.
    for digit, classes in enumerate(_DIGITS):
        labels |= np.unpackbits(np.bitwise_or.reduce(maps[classes])) << digit
    return labels.reshape(resolution, resolution)


def schema(resolution: int) -> pa.Schema:
    """The schema of every part."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),
            ("image", pa.binary()),
            ("onehot", pa.binary()),
            ("pixels", _PIXELS),
        ],
        metadata={_LABELS: json.dumps(faces.LABELS), _RESOLUTION: str(resolution)},
    )


def write_part(path: Path, rows: Iterable[Face], resolution: int) -> None:
    """Write faces of one resolution to a Parquet file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    remaining = iter(rows)
    try:
        form = schema(resolution)
        with pq.ParquetWriter(unfinished, form, **_STORAGE) as writer:
            while group := list(islice(remaining, _ROW_GROUP)):
                writer.write_table(_table(group, resolution))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def is_whole(path: Path, ids: Sequence[str], splits: Sequence[Split], resolution: int) -> bool:
    """Whether a part is there, reads back undamaged, and holds just these faces."""
    if not path.is_file():
        return False
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as part:
            table = part.read()
    except _UNREADABLE:  # torn by a crash
        return False
    return (
        table.schema.equals(schema(resolution), check_metadata=True)
        and table["id"].to_pylist() == list(ids)
        and table["split"].to_pylist() == list(splits)
    )


class FaceTable:
    """The faces of a folder of parts, or those of one split, in the archive's order.

    Raises ValueError if a part is missing, damaged, or was written with other labels or another resolution.
    """

    def __init__(self, folder: Path, split: Split | None) -> None:
        self._paths = _part_paths(folder)
        self._parts = [_open_part(path) for path in self._paths]
        resolutions = [int(part.schema_arrow.metadata[_RESOLUTION]) for part in self._parts]
        self.resolution = resolutions[0]
        for path, resolution in zip(self._paths, resolutions, strict=True):
            require_same(f"the resolution of {path}", resolution, self.resolution, _REMAKE)
        ids: list[str] = []
        pixels: list[NDArray[np.int64]] = []
        self._rows: list[tuple[int, int, int]] = []
        """Part, row group, and row within it."""
        for number, part in enumerate(self._parts):
            for group in range(part.num_row_groups):
                table = self._read(number, group, ["id", "split", "pixels"])
                chosen = [
                    row for row, found in enumerate(table["split"].to_pylist()) if split is None or found == split
                ]
                every_id = table["id"].to_pylist()
                ids += [every_id[row] for row in chosen]
                counts = table["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, faces.NUM_CLASSES)
                pixels.append(counts[chosen].astype(np.int64))
                self._rows += [(number, group, row) for row in chosen]
        self.ids: tuple[str, ...] = tuple(ids)
        self.pixels: NDArray[np.int64] = np.concatenate(pixels)
        """Pixels of each class in each face (N, 19)."""

    def __len__(self) -> int:
        return len(self.ids)

    def class_shares(self) -> list[tuple[str, float, float]]:
        """Name, share of the faces that show it, and mean share of the pixels in these, of each class."""
        shares = []
        for name, pixels in zip(faces.LABELS, self.pixels.T, strict=True):
            shown = pixels[pixels > 0]
            area = shown.mean() / self.resolution**2 if shown.size else 0.0
            shares.append((name, shown.size / len(self), float(area)))
        return shares

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The faces at `indices`, in that order: RGB (B, H, W, 3), 0 to 255, and class ids (B, H, W)."""
        images, labels, _ = self.batch_with_files(indices)
        return images, labels

    def batch_with_files(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[bytes]]:
        """`batch`, and the images as they are stored, lossless WebP."""
        images = np.empty((len(indices), self.resolution, self.resolution, 3), np.uint8)
        labels = np.empty((len(indices), self.resolution, self.resolution), np.uint8)
        files = [b""] * len(indices)
        for place, (image, onehot) in self._cells(indices, ["image", "onehot"]):
            files[place] = image
            images[place] = _decoded(image)
            labels[place] = unpack_labels(onehot, self.resolution)
        return images, labels, files

    def image_batch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """The images of `batch`, without reading the masks."""
        images = np.empty((len(indices), self.resolution, self.resolution, 3), np.uint8)
        for place, (image,) in self._cells(indices, ["image"]):
            images[place] = _decoded(image)
        return images

    def _cells(self, indices: Sequence[int], columns: list[str]) -> Iterator[tuple[int, list[bytes]]]:
        """Each place in `indices` with its row's `columns`, every row group read once."""
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place, index in enumerate(indices):
            part, group, row = self._rows[index]
            wanted.setdefault((part, group), []).append((place, row))
        for (part, group), rows in wanted.items():
            table = self._read(part, group, columns)
            for place, row in rows:
                yield place, [table[column][row].as_py() for column in columns]

    def _read(self, part: int, group: int, columns: list[str]) -> pa.Table:
        try:
            return self._parts[part].read_row_group(group, columns=columns)
        except _UNREADABLE as error:
            raise _damaged(self._paths[part], error) from None


def _table(group: Sequence[Face], resolution: int) -> pa.Table:
    pixels = np.stack([np.bincount(face.labels.ravel(), minlength=faces.NUM_CLASSES) for face in group])
    columns = [
        pa.array([face.id for face in group], pa.string()),
        pa.array([face.split for face in group], pa.string()),
        pa.array([_webp(face.image) for face in group], pa.binary()),
        pa.array([pack_onehot(face.labels) for face in group], pa.binary()),
        pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel(), pa.int32()), type=_PIXELS),
    ]
    return pa.table(columns, schema=schema(resolution))


def _webp(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    # The least effort: files an eighth larger than at the default, written 20 times as fast.
    Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=0, quality=20)
    return buffer.getvalue()


def _decoded(webp: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(webp), formats=("WEBP",)) as image:
        return np.asarray(image)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read ({error}), expected a whole Parquet file. {_REMAKE}")


def _part_paths(folder: Path) -> list[Path]:
    """The parts in the order of their rows. Raises ValueError unless their ranges join up from 0."""
    ranges = {}
    for path in folder.glob("*.parquet"):
        if not (match := _PART.fullmatch(path.name)):
            raise ValueError(f"{path} is not named like {part_name(0, 127)}, so its rows have no place. {_REMAKE}")
        ranges[int(match[1])] = int(match[2]), path
    if not ranges:
        raise ValueError(f"{folder} holds no parts, expected files like {part_name(0, 127)}. Run `dvc repro`.")
    following = 0
    for first in sorted(ranges):
        require_same(f"the first row of {ranges[first][1]}", first, following, f"A part is missing. {_REMAKE}")
        following = ranges[first][0] + 1
    return [ranges[first][1] for first in sorted(ranges)]


def _open_part(path: Path) -> pq.ParquetFile:
    try:
        part = pq.ParquetFile(path, page_checksum_verification=True)
    except _UNREADABLE as error:
        raise _damaged(path, error) from None
    metadata = part.schema_arrow.metadata or {}
    faces.require_labels(json.loads(metadata.get(_LABELS, b"[]")), str(path))
    match = _PART.fullmatch(path.name)
    assert match is not None, "parts are found by their name"
    rows = int(match[2]) - int(match[1]) + 1
    require_same(f"the number of rows in {path}", part.metadata.num_rows, rows, _REMAKE)
    return part
