"""Encode faces into latent shards, a range of rows at a time."""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from scadm.config import LatentsConfig
from scadm.data.shards import MEMBERS, Encoded, Sample, ShardEntry, describe_shard, encode, write_shard
from scadm.data.tables import FaceTable
from scadm.files.manifest import SPLITS, Split, require_same
from scadm.first_stage import load_first_stage
from scadm.pixels import Images, Labels, to_signed
from scadm.precision import mixed_precision


class ShardReport(NamedTuple):
    shard: ShardEntry
    sum: NDArray[np.float64]
    """Per channel, over the stored latents; with `square` and `count` it gives mean and variance."""
    square: NDArray[np.float64]
    count: int
    """Values per channel."""


class ShardMaker:
    """Holds the autoencoder and one split's table; called once for each range of rows."""

    def __init__(self, tables: str, autoencoder: str, work: str, config: LatentsConfig, *, use_gpu: bool) -> None:
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.autocast = mixed_precision(config.precision, self.device)
        self.autoencoder = load_first_stage(Path(autoencoder), self.device).model
        self.tables = Path(tables)
        self.work = Path(work)
        self.flip = config.flip
        self.batch_size = config.batch_size
        self._table: tuple[Split, FaceTable] | None = None

    def _open(self, split: Split) -> FaceTable:
        if self._table is None or self._table[0] != split:
            self._table = (split, FaceTable(self.tables, split))
        return self._table[1]

    def _read(self, table: FaceTable, rows: range) -> Iterator[tuple[range, Images, Labels, list[bytes]]]:
        """Batches of faces with their image files; each is read while the one before it is encoded."""
        parts = [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]

        def read(part: range) -> tuple[range, Images, Labels, list[bytes]]:
            return part, *table.batch_with_files(part)

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(read, parts[0])
            for part in parts[1:]:
                ready, ahead = ahead.result(), pool.submit(read, part)
                yield ready
            yield ahead.result()

    @torch.inference_mode()
    def _samples(self, table: FaceTable, rows: range) -> Iterator[Encoded]:
        for part, images, labels, files in self._read(table, rows):
            orientations = [images, images[:, :, ::-1]] if self.flip else [images]
            with self.autocast():
                latents = [self.autoencoder.encode(to_signed(o).to(self.device)).float() for o in orientations]
            stacked = torch.stack(latents, dim=1).cpu().numpy().astype(np.float16)
            for row, latent, image, label, file in zip(part, stacked, images, labels, files, strict=True):
                if not np.isfinite(latent).all():
                    raise ValueError(
                        f"the latent of face {table.ids[row]} is not finite in float16: the autoencoder does not fit "
                        "these images. Train it longer or with a lower autoencoder.training.learning_rate."
                    )
                yield encode(Sample(table.ids[row], latent, image, label), file)

    def __call__(self, split: Split, start: int, stop: int) -> ShardReport:
        """Make the shard of rows start .. stop - 1 of a split, unless an earlier, killed run has finished it."""
        table = self._open(split)
        path = self.work / shard_name(split, start, stop)
        shard = finished_shard(path, table.ids[start:stop])
        if shard is None:
            write_shard(path, split, self._samples(table, range(start, stop)))
            shard = describe_shard(path)
        latents = np.stack([np.load(file) for file in _latent_files(path, shard)]).astype(np.float64)
        by_channel = latents.transpose(2, 0, 1, 3, 4).reshape(latents.shape[2], -1)
        return ShardReport(
            shard=shard,
            sum=by_channel.sum(1),
            square=(by_channel**2).sum(1),
            count=by_channel.shape[1],
        )


def shard_name(split: Split, start: int, stop: int) -> str:
    """File name of the shard of rows start .. stop - 1 of a split."""
    return f"{split}-{start:06d}-{stop - 1:06d}.tar"


def finished_shard(path: Path, ids: Sequence[str]) -> ShardEntry | None:
    """The shard `path` if it is there and holds just these faces, whole; None if it must be made."""
    try:
        shard = describe_shard(path)
    except (FileNotFoundError, tarfile.TarError):
        return None
    members = {*MEMBERS, "json"}
    whole = all(set(offsets) == members for offsets in shard.samples.values())
    return shard if whole and tuple(shard.samples) == tuple(ids) else None


def _latent_files(path: Path, shard: ShardEntry) -> Iterator[io.BytesIO]:
    data = path.read_bytes()
    for offsets in shard.samples.values():
        offset, size = offsets["latent.npy"]
        yield io.BytesIO(data[offset : offset + size])


def shard_tasks(splits: Mapping[Split, Sequence[str]], samples_per_shard: int) -> list[dict[str, Any]]:
    """The arguments of `ShardMaker` for every shard of every split."""
    return [
        {"split": split, "start": start, "stop": min(start + samples_per_shard, len(splits[split]))}
        for split in SPLITS
        for start in range(0, len(splits[split]), samples_per_shard)
    ]


def require_ids(reports: Sequence[ShardReport], splits: Mapping[Split, Sequence[str]], work: Path) -> None:
    """Raise ValueError unless the shards hold just the ids of each split, in order: rows in = rows out."""
    for split in SPLITS:
        shards = [report.shard for report in reports if report.shard.name.startswith(f"{split}-")]
        written = [key for shard in shards for key in shard.samples]
        require_same(f"the ids in the {split} shards", written, list(splits[split]), f"Delete {work} and run again.")


def statistics(reports: list[ShardReport]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each latent channel over the given shards."""
    count = sum(report.count for report in reports)
    mean = np.sum([report.sum for report in reports], axis=0) / count
    variance = np.sum([report.square for report in reports], axis=0) / count - mean**2
    return tuple(map(float, mean)), tuple(map(float, np.sqrt(variance)))
