"""Latent shards: webdataset tars, and the index that lets a sample be read at its byte offset.

A sample has four members: `ID.latent.npy` (float16, O x C x h x w; O = 2 orientations, as is and mirrored, when
flipping is on), `ID.image.webp` (lossless RGB, for the style encoder), `ID.mask.png` (class ids), `ID.json`.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from webdataset.writer import TarWriter

from scadm.data.shard_cache import CACHE_BYTES, ShardCache
from scadm.files.manifest import sha256, write_atomically
from scadm.files.patience import patiently, said_here
from scadm.files.store import Store

INDEX = "index.json"
MEMBERS = ("latent.npy", "image.webp", "mask.png")


class Sample(NamedTuple):
    id: str
    latent: NDArray[np.float16]
    """(O, C, h, w), as the autoencoder gives it."""
    image: NDArray[np.uint8]
    """(H, W, 3)."""
    labels: NDArray[np.uint8]
    """(H, W)."""


class Encoded(NamedTuple):
    """A sample as the bytes of its members."""

    id: str
    members: dict[str, bytes]
    """By extension, as in MEMBERS."""


def encode(sample: Sample, image_file: bytes | None = None) -> Encoded:
    """The members of a sample; an image that is already there as lossless WebP need not be compressed again."""
    latent, webp, png = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(latent, sample.latent)
    if image_file is None:
        Image.fromarray(sample.image).save(webp, "WEBP", lossless=True, quality=0, method=0, exact=True)
        image_file = webp.getvalue()
    # Larger by a fifth than at the default, written three times as fast.
    Image.fromarray(sample.labels).save(png, "PNG", compress_level=1)
    return Encoded(sample.id, dict(zip(MEMBERS, (latent.getvalue(), image_file, png.getvalue()), strict=True)))


def write_shard(path: Path, split: str, samples: Iterable[Encoded]) -> None:
    """Write one tar; the same samples give the same bytes. It appears under its name when it is complete."""
    temporary = path.with_name(f".{path.name}.unfinished")
    with (
        temporary.open("wb") as file,
        TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o644) as writer,
    ):
        for sample in samples:
            note = json.dumps({"id": sample.id, "split": split}).encode()
            writer.write({"__key__": sample.id, **sample.members, "json": note})
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


Offsets = dict[str, tuple[int, int]]
"""Byte offset and size of each member of a sample, by the member's extension."""


class ShardEntry(NamedTuple):
    """A shard as the index lists it."""

    name: str
    bytes: int
    sha256: str
    samples: dict[str, Offsets]


class Latents(NamedTuple):
    """What all latents of an index have in common."""

    autoencoder: str
    """Its fingerprint."""
    mean: tuple[float, ...]
    """By channel, over the train split; likewise `std`."""
    std: tuple[float, ...]


def describe_shard(path: Path) -> ShardEntry:
    """Read a finished shard: its hash, and where the members of each sample lie."""
    samples: dict[str, Offsets] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            samples.setdefault(key, {})[extension] = (member.offset_data, member.size)
    return ShardEntry(path.name, path.stat().st_size, sha256(path), samples)


def write_index(path: Path, shards: Iterable[ShardEntry], latents: Latents) -> None:
    """Write index.json: for each shard, in order, its size, its hash, its samples and their offsets."""
    tree = {
        "members": MEMBERS,
        "latents": latents._asdict(),
        "shards": [
            {
                "name": shard.name,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "samples": [[key, *(offsets[member] for member in MEMBERS)] for key, offsets in shard.samples.items()],
            }
            for shard in shards
        ],
    }
    write_atomically(path, json.dumps(tree, separators=(",", ":")))


class ShardReader:
    """Random access to the samples of one split, in local or remote shards. Safe to use from several threads.

    Remote shards are fetched whole, once a machine, into a cache of `cache_bytes` at most. Raises ValueError by name
    where a shard is missing, or is not the one that the index was written of: of a local one the size is compared, of
    a fetched one also the sha256. `say` gets what is said where a store is away for a while.
    """

    def __init__(
        self, root: str, split: str, cache_bytes: int = CACHE_BYTES, say: Callable[[str], None] = said_here
    ) -> None:
        store = Store(root)
        try:
            tree = json.loads(patiently(store, lambda: store.read(INDEX), say))
        except FileNotFoundError:
            raise ValueError(
                f"{root} has no {INDEX}, so it holds no finished shards. Run `dvc repro latents`."
            ) from None
        self._shards = {shard["name"]: (shard["bytes"], shard["sha256"]) for shard in tree["shards"]}
        self._samples: list[tuple[str, str, list[tuple[int, int]]]] = []
        for shard in tree["shards"]:
            if shard["name"].split("-")[0] == split:
                self._samples += [(shard["name"], key, places) for key, *places in shard["samples"]]
        if not self._samples:
            raise ValueError(f"{root}/{INDEX} lists no samples of split {split!r}. Run `dvc repro latents`.")
        self._cache = ShardCache(store, cache_bytes, say=say)

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (B, H, W, 3) and label maps (B, H, W)."""
        samples = [self[index] for index in indices]
        return np.stack([s.image for s in samples]), np.stack([s.labels for s in samples])

    def __getitem__(self, index: int) -> Sample:
        shard, key, places = self._samples[index]
        # The members of a sample lie side by side: one read for all.
        first, end = min(offset for offset, _ in places), max(offset + size for offset, size in places)
        data = self._cache.read(shard, *self._shards[shard], first, end - first)
        latent, image, mask = (data[offset - first : offset - first + size] for offset, size in places)
        return Sample(
            id=key,
            latent=_array(latent),
            # Naming the format spares Pillow trying others: half the time of a small image.
            image=np.asarray(Image.open(io.BytesIO(image), formats=("WEBP",))),
            labels=np.asarray(Image.open(io.BytesIO(mask), formats=("PNG",))),
        )


def _array(npy: bytes) -> NDArray[Any]:
    """`np.load` of a file in memory whose header is like those before it: it is parsed once."""
    start = 10 + int.from_bytes(npy[8:10], "little")
    shape, dtype = _npy_form(npy[:start])
    return np.frombuffer(npy, dtype, offset=start).reshape(shape)


@lru_cache(maxsize=16)
def _npy_form(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or fortran_order:
        raise ValueError(f"an array of .npy version {version}, Fortran order {fortran_order}: expected (1, 0), False")
    return shape, dtype
