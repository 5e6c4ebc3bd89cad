"""What the tables hold: every face looked at once, in blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scadm import faces
from scadm.data.duplicates import SAME, nearest, signatures
from scadm.data.tables import FaceTable
from scadm.files.manifest import SPLITS, Split
from scadm.inspection.suspects import Sides, Suspicion, broken_rules, exchanged, sides, usual_sides

_BLOCK = 256
EXAMPLES = 6


class ClassShare(NamedTuple):
    name: str
    faces: float
    """Share of the faces that show it."""
    area: float
    """Mean share of the pixels in these."""
    examples: tuple[int, ...]
    """Positions of faces that show it, from the smallest to the largest area."""


class Twins(NamedTuple):
    """Two faces of different splits that show the same picture."""

    first: int
    second: int
    correlation: float


@dataclass(frozen=True)
class Survey:
    ids: tuple[str, ...]
    splits: dict[Split, int]
    """Number of faces."""
    classes: tuple[ClassShare, ...]
    sides: Sides
    """Of most faces."""
    side_agreement: dict[str, float]
    """Of the faces that show both parts of a pair, the share with the usual side."""
    suspicions: tuple[Suspicion, ...]
    twins: tuple[Twins, ...] | None
    """None where they were not looked for."""


def survey(
    table: FaceTable, split_of: Sequence[Split], progress: Callable[[int], object], *, photographs: bool
) -> Survey:
    """Look at all faces of a table, whose splits are `split_of`; `progress` receives 1 for each.

    Twins are looked for among photographs only: drawn faces are alike without being the same picture.
    """
    rules: list[list[str]] = []
    found_sides: list[Sides] = []
    thumbnails: list[NDArray[np.float32]] = []
    for first in range(0, len(table), _BLOCK):
        rows = range(first, min(first + _BLOCK, len(table)))
        images, labels = table.batch(rows)
        thumbnails.append(signatures(images))
        for face in labels:
            rules.append(broken_rules(face))
            found_sides.append(sides(face))
            progress(1)
    usual = usual_sides(found_sides)
    for broken, found in zip(rules, found_sides, strict=True):
        if exchanged(found, usual):
            broken.append("sides_exchanged")
    return Survey(
        ids=table.ids,
        splits={split: split_of.count(split) for split in SPLITS},
        classes=_classes(table),
        sides=usual,
        side_agreement=_agreement(found_sides, usual),
        suspicions=tuple(Suspicion(i, rule) for i, broken in enumerate(rules) for rule in broken),
        twins=_twins(np.concatenate(thumbnails), split_of) if photographs else None,
    )


def _classes(table: FaceTable) -> tuple[ClassShare, ...]:
    shares = []
    for k, (name, shown, area) in enumerate(table.class_shares()):
        order = np.argsort(table.pixels[:, k], kind="stable")
        order = order[table.pixels[order, k] > 0]
        chosen = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int)]
        shares.append(ClassShare(name, shown, area, tuple(chosen.tolist())))
    assert len(shares) == faces.NUM_CLASSES
    return tuple(shares)


def _agreement(every: Sequence[Sides], usual: Sides) -> dict[str, float]:
    shares = {}
    for name, column, side in zip(Sides._fields, zip(*every, strict=True), usual, strict=True):
        both = [found for found in column if found]
        if both:
            shares[name] = sum(found == side for found in both) / len(both)
    return shares


def _twins(thumbnails: NDArray[np.float32], split_of: Sequence[Split]) -> tuple[Twins, ...]:
    """Of each held-out face, the nearest of the splits before it, where it shows the same picture."""
    places = {split: np.array([i for i, found in enumerate(split_of) if found == split], np.int64) for split in SPLITS}
    found = []
    for n, split in enumerate(SPLITS[1:], start=1):
        others = np.concatenate([places[before] for before in SPLITS[:n]])
        mine = places[split]
        for first in range(0, len(mine), _BLOCK):
            rows = mine[first : first + _BLOCK]
            index, correlation = nearest(thumbnails[rows], thumbnails[others])
            for row, other, value in zip(rows, others[index], correlation, strict=True):
                if value >= SAME:
                    found.append(Twins(int(row), int(other), float(value)))
    return tuple(found)
