"""Each image as a function of the model, the face's id and a seed alone: of no batch, no order and no worker."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scadm.synthesis import CHUNK

EDIT, FIRST, SECOND = range(3)
"""Draws of a face's noise: one that all reconstructions and edits of it share, and two for noise alone."""


def face_seeds(ids: Sequence[str], seed: int, draw: int) -> list[int]:
    """Seeds of the sampler for faces, by their ids: below 2^63."""
    names = [f"{seed}/{draw}/{id}".encode() for id in ids]
    return [int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1 for name in names]


def _chunks(columns: Sequence[NDArray]) -> Iterator[tuple[list[NDArray], int]]:
    """`CHUNK` rows of each column at a time, filled up with its last row, and how many of them are real."""
    for start in range(0, len(columns[0]), CHUNK):
        parts = [column[start : start + CHUNK] for column in columns]
        real = len(parts[0])
        filled = np.minimum(np.arange(CHUNK), real - 1)
        yield [part[filled] for part in parts], real


def in_chunks(make: Callable[..., Any], *columns: NDArray | Sequence[int]) -> Any:
    """`make(*columns)`, row by row, always called with `CHUNK` rows; an array, or a tuple of arrays as `make` gives.

    A library may take another kernel, and so other last digits, for another number of rows.
    """
    arrays = [np.asarray(column) for column in columns]
    made = [(make(*parts), real) for parts, real in _chunks(arrays)]
    if isinstance(made[0][0], tuple):
        return tuple(np.concatenate([part[i][:real] for part, real in made]) for i in range(len(made[0][0])))
    return np.concatenate([part[:real] for part, real in made])
