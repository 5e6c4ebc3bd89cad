"""What people wear: clothes, hats, glasses and jewellery."""

import numpy as np

from scadm.data.synthetic.curves import Frame, Placement, Points, ellipse, points, slanted, smooth, symmetric
from scadm.data.synthetic.factors import Factors, number
from scadm.data.synthetic.features import EYE_Y
from scadm.data.synthetic.layers import Detail, Layer


def cloth(factors: Factors, body: Frame) -> Layer:
    """A garment over the shoulders, cut low or high at the neck."""
    neckline = {
        "round": [(0, 1.32), (0.3, 1.29), (0.56, 1.14)],
        "v": [(0, 1.48), (0, 1.48), (0.3, 1.29), (0.56, 1.06)],
        "high": [(0, 1.1), (0.3, 1.08), (0.56, 0.98)],
    }[str(factors["cloth.neckline"])]
    sides = [(0.66, 1.02), (1.05, 1.14), (1.7, 1.27), (2.2, 1.6), (2.6, 3), (0, 3)]
    shape = symmetric([*neckline, *sides])
    rim = symmetric([*neckline, *[(x + 0.02, y + 0.09) for x, y in neckline[::-1]]])
    details = (Detail((smooth(body.place(rim)),), "shadow", 0.6),)
    return Layer("cloth", (smooth(body.place(shape)),), body, details)


def necklace(factors: Factors, body: Frame) -> Layer:
    """A band around the neck with a pendant."""
    low = 1.2 + 0.1 * number(factors, "neck_l.drop")
    upper = points((-0.58, 1.02), (-0.38, low - 0.06), (0, low), (0.38, low - 0.06), (0.58, 1.02))
    band = np.concatenate([upper, (upper * [0.98, 1] + [0, 0.075])[::-1]])
    pendant = ellipse(0, low + 0.08, 0.11, 0.085)
    glint = ellipse(-0.03, low + 0.06, 0.04, 0.03)
    details = (Detail((smooth(body.place(glint)),), "light", 0.9),)
    return Layer("neck_l", (smooth(body.place(band)), smooth(body.place(pendant))), body, details)


def hat(factors: Factors, head: Frame) -> Layer:
    """A beanie with a turn-up, or a hat with a brim and a ribbon."""
    if factors["hat.style"] == "beanie":
        dome = symmetric([(0, -1.42), (0.6, -1.32), (1.02, -0.98), (1.14, -0.5), (0.7, -0.56), (0, -0.6)])
        outlines = (dome, ellipse(0, -1.45, 0.2, 0.14))
        band = symmetric([(0, -0.82), (0.6, -0.78), (1.2, -0.68), (1.2, -0.45), (0.6, -0.53), (0, -0.58)])
    else:
        dome = symmetric([(0, -1.4), (0.55, -1.36), (0.86, -1.16), (0.96, -0.7), (0, -0.6)])
        brim = symmetric([(0, -0.84), (0.9, -0.8), (1.5, -0.68), (1.62, -0.58), (1.3, -0.52), (0, -0.56)])
        outlines = (dome, brim)
        band = symmetric([(0, -0.98), (0.5, -0.97), (0.95, -0.92), (0.97, -0.78), (0.5, -0.82), (0, -0.84)])
    details = (Detail((smooth(head.place(band)),), "shadow", 0.9),)
    return Layer("hat", tuple(smooth(head.place(o)) for o in outlines), head, details)


def earrings(factors: Factors, head: Frame) -> Layer:
    """The earrings in sight, as one layer."""
    size, style = number(factors, "ear_r.size"), factors["ear_r.style"]
    outlines: list[Points] = []
    glints: list[Points] = []
    for side in (1, -1):
        # Where the ear is turned out of sight, so is its ring.
        if side * number(factors, "pose.turn") >= 12:
            continue
        x, y = side * 1.05, 0.3
        outlines.append(ellipse(x, y, 0.08 * size, 0.058 * size))
        glints.append(ellipse(x - 0.02, y - 0.02, 0.03, 0.022))
        if style == "drop":
            drop = points((0, 0.03), (0.09, 0.2), (0.06, 0.28), (0, 0.3), (-0.06, 0.28), (-0.09, 0.2))
            outlines.append(drop * size + [x, y])
        elif style == "hoop":
            outlines.append(_ring(x, y + 0.16 * size, 0.15 * size, 0.13 * size))
    details = (Detail(tuple(smooth(head.place(glint)) for glint in glints), "light", 0.9),)
    return Layer("ear_r", tuple(smooth(head.place(o)) for o in outlines), head, details)


def _ring(x: float, y: float, rx: float, ry: float) -> Points:
    """A ring as one closed line: around the outside, and back around the inside."""
    angle = np.linspace(-np.pi / 2, 1.5 * np.pi, 17)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outer, inner = circle * [rx, ry], circle[::-1] * [0.62 * rx, 0.62 * ry]
    return np.concatenate([outer, inner]) + [x, y]


def glasses(factors: Factors, head: Frame, face: Placement) -> Layer:
    """Glasses: the class holds frame and lenses. Dark ones hide the eyes."""
    x, y = number(factors, "eye.spacing"), EYE_Y + 0.01
    outlines: list[Points] = []
    lenses: list[Points] = []
    for side in (1, -1):
        outlines.append(_lens(factors, side * x, y, 1.0))
        lenses.append(_lens(factors, side * x, y, 0.82))
        outlines.append(points((side * 0.72, y - 0.06), (side * 0.99, y - 0.07), (side * 0.99, y), (side * 0.72, y)))
    outlines.append(
        points((-0.2, y - 0.05), (0, y - 0.08), (0.2, y - 0.05), (0.2, y + 0.01), (0, y - 0.03), (-0.2, y + 0.01))
    )
    ink = "dark" if factors["eye_g.dark"] else "glass"
    details = [Detail(tuple(smooth(face(lens)) for lens in lenses), ink)]
    details += [
        Detail(
            (smooth(face(slanted(ellipse(side * x - 0.1, y - 0.07, 0.03, 0.08), side * x, y, 20))),),
            "light",
            0.6,
        )
        for side in (1, -1)
    ]
    return Layer("eye_g", tuple(smooth(face(o)) for o in outlines), head, tuple(details))


def _lens(factors: Factors, x: float, y: float, scale: float) -> Points:
    rx, ry = 0.36 * scale, 0.25 * scale
    if factors["eye_g.shape"] == "round":
        return ellipse(x, y, rx, ry * 1.08)
    corner = 0.75
    return points(
        (x - rx, y - corner * ry),
        (x - corner * rx, y - ry),
        (x + corner * rx, y - ry),
        (x + rx, y - corner * ry),
        (x + 0.92 * rx, y + 0.5 * ry),
        (x + 0.6 * rx, y + ry),
        (x - 0.6 * rx, y + ry),
        (x - 0.92 * rx, y + 0.5 * ry),
    )
