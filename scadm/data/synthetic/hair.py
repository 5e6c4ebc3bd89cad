"""Hair: behind the head for all but short cuts, and before it from the crown to the hairline."""

import numpy as np
from numpy.typing import NDArray

from scadm.data.synthetic.curves import Frame, Points, points, smooth, symmetric
from scadm.data.synthetic.factors import Factors, number
from scadm.data.synthetic.layers import Detail, Layer


def hair_back(factors: Factors, head: Frame) -> list[Layer]:
    """The hair seen behind the head: nothing for short cuts."""
    style, volume = str(factors["hair.style"]), number(factors, "hair.volume")
    if style in ("crop", "short"):
        return []
    low, side = _hair_end(factors), 1.12 + 0.16 * volume
    if style == "curly":
        shape = _curls(1.22 + 0.16 * volume, -0.22, 0.98 + 0.1 * volume, np.linspace(0, 2 * np.pi, 72)[1:])
    else:
        shape = symmetric(
            [
                (0, -1.1),
                (0.9, -0.8),
                (side, -0.1),
                (side + 0.06, 0.5),
                (side, low - 0.1),
                (0.7, low),
                (0, low),
            ]
        )
    return [Layer("hair", (smooth(head.place(shape)),), head, ink="behind", strands=True)]


def hair_front(factors: Factors, head: Frame) -> Layer:
    """The hair before the head, with a gloss on the side of the light."""
    volume = number(factors, "hair.volume")
    lean = 0.35 * np.sign(number(factors, "light.angle"))
    top = -0.93 - 0.1 * volume
    gloss = points((lean - 0.5, top + 0.2), (lean, top + 0.06), (lean + 0.5, top + 0.2), (lean, top + 0.16))
    details = (Detail((smooth(head.place(gloss)),), "light", 0.3),)
    return Layer("hair", (smooth(head.place(hair_outline(factors))),), head, details, strands=True)


def hair_outline(factors: Factors) -> Points:
    """The hair before the head, in head units: over the crown and back along the hairline."""
    style, volume = str(factors["hair.style"]), number(factors, "hair.volume")
    top = -1.06 - (0.02 if style == "crop" else 0.1 + 0.16 * volume)
    side = 1.0 + (0.02 if style == "crop" else 0.06 + 0.1 * volume)
    crown = [(side, -0.38), (0.87 * side, 0.66 * top), (0.5 * side, 0.92 * top), (0, top)]
    if style in ("bob", "long") and not factors["hair.tucked"]:
        low, wide = _hair_end(factors), 1.2 + 0.14 * volume
        lock = [(1.06, low), (wide - 0.06, low - 0.06), (wide + 0.05, 0.45), (wide, 0.0)]
        inner = [(0.9, -0.3), (0.97, 0.1), (0.9, 0.55)]
    elif style == "curly":
        lock = [(1.0, 0.24)]
        crown = _curls(1.16 + 0.12 * volume, -0.3, 0.9 + 0.12 * volume, np.linspace(0.5, -np.pi / 2, 36)).tolist()
        inner = [(0.88, -0.3), (0.95, 0.05)]
    else:
        low = {"crop": -0.2, "short": -0.02}.get(style, -0.12)
        lock = [(0.99, low + 0.03), (side, low - 0.1)]
        inner = [(0.86, -0.42), (0.93, low - 0.1)]
    right = np.array([*lock, *crown])
    outside = np.concatenate([right, right[-2::-1] * [-1, 1]])
    edge = np.array(inner)
    return np.concatenate([outside, edge[::-1] * [-1, 1], _hairline(factors), edge])


def _hair_end(factors: Factors) -> float:
    """The height at which loose hair ends."""
    length = number(factors, "hair.length")
    return 0.6 + 0.3 * length if factors["hair.style"] == "bob" else 1.15 + 0.7 * length


def _hairline(factors: Factors) -> Points:
    """The edge of the hair on the forehead, from the left to the right of the picture."""
    x = np.array([-0.7, -0.4, -0.12, 0.12, 0.4, 0.7])
    fringe = factors["hair.fringe"]
    if fringe == "straight":
        y = np.array([-0.42, -0.47, -0.45, -0.48, -0.45, -0.43])
    elif fringe == "side":
        parting = number(factors, "hair.parting")
        y = -0.8 + 0.42 * np.clip(np.abs(x - parting) / 0.8, 0, 1) ** 0.8
    else:
        y = -0.56 - 0.18 * (1 - (x / 0.75) ** 2)
    if factors["hair.style"] == "crop":
        y = np.minimum(y, -0.58)
    return np.stack([x, y], axis=1)


def _curls(radius: float, y: float, height: float, angle: NDArray[np.float64]) -> Points:
    """The edge of a cloud at the given angles: an ellipse that bulges fourteen times."""
    bulge = 0.96 + 0.07 * np.abs(np.sin(7 * angle))
    return np.stack([radius * bulge * np.cos(angle), y + height * bulge * np.sin(angle)], axis=1)
