"""Batches of training samples, read ahead by threads. Its whole state is the step (see `order`)."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scadm import faces
from scadm.data.order import micro_batches, rank_positions, sample_at
from scadm.data.shards import Sample, ShardReader
from scadm.diffusion.noise import FLIP, generator
from scadm.pixels import Images, Labels


class Batch(NamedTuple):
    """Samples as they are stored; `device_batch` takes them to where the networks are, and makes them float there."""

    positions: list[int]
    """Global sample positions; every random draw for a sample depends on the seed and its position."""
    ids: list[str]
    latent: NDArray[np.float16]
    """(B, C, h, w), as the autoencoder gives it."""
    image: Images
    """(B, H, W, 3)."""
    labels: Labels
    """(B, H, W)."""


def collate(positions: Sequence[int], samples: Sequence[Sample], mirrored: Sequence[bool]) -> Batch:
    """Stack samples, each in the orientation asked for; a mirrored latent is the one that was encoded mirrored."""
    images = [s.image[:, ::-1] if m else s.image for s, m in zip(samples, mirrored, strict=True)]
    labels = [faces.mirror_labels(s.labels) if m else s.labels for s, m in zip(samples, mirrored, strict=True)]
    latents = [s.latent[int(m)] for s, m in zip(samples, mirrored, strict=True)]
    return Batch(
        positions=list(positions),
        ids=[s.id for s in samples],
        latent=np.stack(latents),
        image=np.stack(images),
        labels=np.stack(labels),
    )


class Loader:
    """The micro-batches of each step for one rank, from any step on."""

    def __init__(
        self,
        reader: ShardReader,
        *,
        seed: int,
        batch: int,
        micro_batch: int,
        rank: int,
        ranks: int,
        threads: int,
    ) -> None:
        self.reader = reader
        self.seed = seed
        self.batch, self.micro_batch = batch, micro_batch
        self.rank, self.ranks = rank, ranks
        self.threads = threads

    def load(self, positions: Sequence[int]) -> Batch:
        samples = [self.reader[sample_at(p, self.seed, len(self.reader))] for p in positions]
        mirrored = [
            len(sample.latent) == 2 and bool(generator(self.seed, FLIP, p).integers(2))
            for p, sample in zip(positions, samples, strict=True)
        ]
        return collate(positions, samples, mirrored)

    def steps(self, first: int, last: int) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its micro-batches) for steps first .. last - 1, the next ones being read meanwhile."""
        ahead: deque[tuple[int, list[Future[Batch]]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            for step in range(first, last):
                positions = rank_positions(step, self.batch, self.rank, self.ranks)
                parts = micro_batches(positions, self.micro_batch)
                ahead.append((step, [pool.submit(self.load, part) for part in parts]))
                if len(ahead) > 2:
                    ready, futures = ahead.popleft()
                    yield ready, [future.result() for future in futures]
            for ready, futures in ahead:
                yield ready, [future.result() for future in futures]
