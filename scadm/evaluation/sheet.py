"""What tasks bring home: columns with one entry a face, which join into the same sheet however the faces were cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sheet:
    """What was measured of N faces. The first axis of every column, or of every array of a mapping, is theirs."""

    positions: NDArray[np.int64]
    """Of each face in its split (N,)."""

    def __len__(self) -> int:
        return len(self.positions)


S = TypeVar("S", bound=Sheet)


def join(sheets: Sequence[S]) -> S:
    """One sheet in the order of the split. Raises ValueError if a face was measured twice."""
    positions = np.concatenate([sheet.positions for sheet in sheets])
    unique, times = np.unique(positions, return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"the faces at positions {unique[times > 1].tolist()} were measured twice, expected each once: they would "
            "count double. Run the evaluation again."
        )
    order = np.argsort(positions)

    def column(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Mapping):
            return {name: column([part[name] for part in parts]) for name in parts[0]}
        return np.concatenate(parts)[order]

    kind = type(sheets[0])
    return kind(**{field.name: column([getattr(sheet, field.name) for sheet in sheets]) for field in fields(kind)})


def extend(kind: type[S], sheet: Sheet, **columns: Any) -> S:
    """A sheet of another kind: with the columns of this one, and more."""
    return kind(**{field.name: getattr(sheet, field.name) for field in fields(sheet)}, **columns)


def require_all(sheet: Sheet, expected: int, what: str) -> None:
    """Raise ValueError unless the positions are 0 to expected - 1."""
    if sheet.positions.tolist() != list(range(expected)):
        missing = sorted(set(range(expected)) - set(sheet.positions.tolist()))
        raise ValueError(
            f"{what} was measured of {len(sheet)} faces, expected the first {expected}; missing positions {missing}. A "
            "mean over them would be of other faces than it claims: run the evaluation again."
        )
