"""Closed curves, and the frames that place them in the picture.

Shapes are written in head units: the origin is the centre of the head, x and y are 1 at its side and at its
chin, y points down. A `Frame` carries them to the unit square of the picture, so that a face is the same at
every size. Outlines are closed chains of cubic Bezier curves; an affine map of their control points is the
affine map of the curve, so the pose is applied to points before they become curves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
"""Positions (n, 2) as x, y."""

Outline: TypeAlias = NDArray[np.float64]
"""A closed curve (n, 3, 2): per cubic segment two control points and the end, which starts the next one."""

Placement: TypeAlias = Callable[[Points], Points]
"""Carries points in head units to the unit square."""

_CIRCLE = np.array([[np.cos(angle), np.sin(angle)] for angle in np.arange(8) * np.pi / 4])


@dataclass(frozen=True)
class Frame:
    """An affine map from head units to the unit square: p -> linear @ p + offset."""

    linear: NDArray[np.float64]
    offset: NDArray[np.float64]

    def place(self, points: Points) -> Points:
        """Carry points (..., 2) in head units to the unit square."""
        return points @ self.linear.T + self.offset


def turned(frame: Frame, degrees: float) -> Placement:
    """Places points of the face after turning it by `degrees`, as if they lay on a cylinder."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))

    def place(points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        depth = np.sqrt(np.maximum(1 - x**2, 0))
        return frame.place(np.stack([x * cosine + depth * sine, y], axis=1))

    return place


def smooth(points: Points) -> Outline:
    """The closed Catmull-Rom curve through points (n, 2), as Bezier segments; repeat a point for a corner."""
    after = np.concatenate([points[1:], points[:1]])
    tangent = (after - np.concatenate([points[-1:], points[:-1]])) / 6
    segments = np.empty((len(points), 3, 2))
    segments[:, 0] = points + tangent
    segments[:, 1] = after
    segments[:-1, 1] -= tangent[1:]
    segments[-1, 1] -= tangent[0]
    segments[:, 2] = after
    return segments


def points(*pairs: tuple[float, float]) -> Points:
    """Positions (n, 2) from x, y pairs."""
    return np.array(pairs, dtype=np.float64)


def symmetric(right: Iterable[tuple[float, float]]) -> Points:
    """Close the right half of a shape, from its top to its bottom, with its mirror image."""
    half = np.array(list(right), dtype=np.float64)
    mirrored = half[::-1] * [-1, 1]
    return np.concatenate([half, mirrored[np.abs(mirrored[:, 0]) > 1e-9]])


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    """Eight points (8, 2) of an upright ellipse."""
    return _CIRCLE * [rx, ry] + [x, y]


def slanted(points: Points, x: float, y: float, degrees: float) -> Points:
    """Turn points about (x, y)."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (points - [x, y]) @ np.array([[cosine, sine], [-sine, cosine]]) + [x, y]
