"""Latent shards: webdataset tars, and the index that lets a sample be read at its byte offset.

A sample has four members: `ID.latent.npy` (float16, O x C x h x w; O = 2 orientations, as is and mirrored, when
flipping is on), `ID.image.webp` (lossless RGB, for the style encoder), `ID.mask.png` (class ids), `ID.json`.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyarrow import fs
from webdataset.writer import TarWriter

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


def _encode(array: NDArray[np.generic], form: str) -> bytes:
    file = io.BytesIO()
    if form == "npy":
        np.save(file, array)
    elif form == "webp":
        Image.fromarray(array).save(file, "WEBP", lossless=True, quality=0, method=0, exact=True)
    else:
        Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_shard(path: Path, split: str, samples: Iterable[Sample]) -> None:
    """Write one tar; the same samples give the same bytes. It appears under its name when it is complete."""
    temporary = path.with_name(f".{path.name}.unfinished")
    with (
        temporary.open("wb") as file,
        TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o644) as writer,
    ):
        for sample in samples:
            writer.write(
                {
                    "__key__": sample.id,
                    "latent.npy": _encode(sample.latent, "npy"),
                    "image.webp": _encode(sample.image, "webp"),
                    "mask.png": _encode(sample.labels, "png"),
                    "json": json.dumps({"id": sample.id, "split": split}).encode(),
                }
            )
    temporary.replace(path)


Offsets = dict[str, tuple[int, int]]
"""Byte offset and size of each member of a sample, by the member's extension."""


def read_offsets(path: Path) -> dict[str, Offsets]:
    """Where the members of each sample lie in a tar."""
    offsets: dict[str, Offsets] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            offsets.setdefault(key, {})[extension] = (member.offset_data, member.size)
    return offsets


def write_index(path: Path, shards: dict[str, dict[str, Offsets]]) -> str:
    """The text of index.json: for each shard, in order, its samples and their offsets."""
    tree = {"members": MEMBERS, "shards": []}
    for name, samples in shards.items():
        rows = [[key, *(offsets[member] for member in MEMBERS)] for key, offsets in samples.items()]
        tree["shards"].append({"name": name, "samples": rows})
    text = json.dumps(tree, separators=(",", ":"))
    path.write_text(text)
    return text


class ShardReader:
    """Random access to the samples of one split, in local or remote shards. Safe to use from several threads."""

    def __init__(self, root: str, split: str) -> None:
        self.filesystem, self.root = fs.FileSystem.from_uri(root) if "://" in root else (fs.LocalFileSystem(), root)
        with self.filesystem.open_input_file(f"{self.root}/{INDEX}") as file:
            tree = json.loads(file.read())
        self._samples: list[tuple[str, str, list[tuple[int, int]]]] = []
        for shard in tree["shards"]:
            if shard["name"].split("-")[0] == split:
                self._samples += [(shard["name"], key, places) for key, *places in shard["samples"]]
        if not self._samples:
            raise ValueError(f"{root}/{INDEX} lists no samples of split {split!r}. Run `dvc repro latents`.")
        self._files: dict[str, fs.NativeFile] = {}  # type: ignore[name-defined]

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def ids(self) -> list[str]:
        return [key for _, key, _ in self._samples]

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (B, H, W, 3) and label maps (B, H, W)."""
        samples = [self[index] for index in indices]
        return np.stack([s.image for s in samples]), np.stack([s.labels for s in samples])

    def __getitem__(self, index: int) -> Sample:
        shard, key, places = self._samples[index]
        file = self._files.get(shard)
        if file is None:
            file = self._files[shard] = self.filesystem.open_input_file(f"{self.root}/{shard}")
        latent, image, mask = (file.read_at(size, offset) for offset, size in places)
        return Sample(
            id=key,
            latent=np.load(io.BytesIO(latent)),
            image=np.asarray(Image.open(io.BytesIO(image)).convert("RGB")),
            labels=np.asarray(Image.open(io.BytesIO(mask))),
        )
