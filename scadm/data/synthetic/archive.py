"""Synthetic data sets on disk, in the layout of the official CelebAMask-HQ archive."""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from scadm.data.synthetic.face import sketch_face
from scadm.data.synthetic.factors import Factors, sample_factors
from scadm.faces import LABELS

_ROOT = "CelebAMask-HQ"
_FACES_PER_FOLDER = 2000
_CELEBA_FACES = 202599
# The golden ratio's share of CelebA's faces, which has no divisor in common with them: stepping by it visits
# each once, and any run of steps spreads evenly, so that few faces suffice to meet all three splits.
_STEP = 125213
_LARGEST_FULL_MASK = 64


def write_archive(
    path: Path,
    *,
    seed: int,
    count: int,
    image_size: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write faces 0 to `count` - 1 of the data set `seed` as a zip laid out like the official archive.

    It holds pictures (JPEG, `image_size` pixels a side), one mask (PNG, 8 bits, 0 or 255) per part in sight
    other than the background, and the mapping to CelebA's numbers by which its rule splits the faces. As in
    the original, masks have half the picture's side, unless that is 64 or less: then they have all of it. The
    same arguments give the same bytes under the same versions of the libraries, and the file appears at
    `path` whole or not at all. `progress`, if given, is called with the number of finished faces.

    Raises ValueError if an argument is out of range, OSError if the file cannot be written.
    """
    _require_count(count)
    mask_size = image_size if image_size <= _LARGEST_FULL_MASK else image_size // 2
    with _whole(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, f"{_ROOT}/CelebA-HQ-to-CelebA-mapping.txt", _mapping(seed, count).encode())
        for index in range(count):
            sketch = sketch_face(seed, index)
            _add(archive, f"{_ROOT}/CelebA-HQ-img/{index}.jpg", _jpeg(sketch.image(image_size)))
            _, parts = sketch.masks(mask_size)
            folder = f"{_ROOT}/CelebAMask-HQ-mask-anno/{index // _FACES_PER_FOLDER}"
            for part in LABELS[1:]:
                if part in parts:
                    _add(archive, f"{folder}/{index:05d}_{part}.png", _png(parts[part]))
            if progress is not None:
                progress(index + 1)


def write_factors(path: Path, *, seed: int, count: int) -> None:
    """Write the factors of faces 0 to `count` - 1 of the data set `seed` as a Parquet table.

    One row a face: `id` (int64), then every factor under its name, as double, string or bool. The file
    appears at `path` whole or not at all.

    Raises ValueError if an argument is out of range, OSError if the file cannot be written.
    """
    _require_count(count)
    rows: list[Factors] = [sample_factors(seed, index) for index in range(count)]
    columns: dict[str, object] = {"id": np.arange(count, dtype=np.int64)}
    columns |= {name: [row[name] for row in rows] for name in rows[0]}
    with _whole(path) as unfinished:
        pq.write_table(pa.table(columns), unfinished, compression="zstd")


def _require_count(count: int) -> None:
    if not 1 <= count <= _CELEBA_FACES:
        raise ValueError(
            f"{count} synthetic faces were asked for, expected 1 to {_CELEBA_FACES}: each takes the place of "
            "one face of CelebA, which decides its split. For more, write several data sets with other seeds."
        )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place if all goes well and is removed if not."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Store a member without the time or the system it was written at."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system = 3
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)


def _mapping(seed: int, count: int) -> str:
    """The table idx, orig_idx, orig_file: each face's place in CelebA, which does not depend on `count`."""
    first = int(np.random.Generator(np.random.PCG64([seed])).integers(_CELEBA_FACES))
    places = [(first + index * _STEP) % _CELEBA_FACES for index in range(count)]
    return "".join(f"{index:<11d}{place:<11d}{place + 1:06d}.jpg\n" for index, place in enumerate(places))


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    # Full-resolution chroma: a small picture's lips and eyes are narrower than a subsampled pixel.
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _png(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()
