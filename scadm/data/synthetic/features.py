"""The parts that everyone has: head, ears, neck and the features of the face."""

import numpy as np

from scadm.data.synthetic.curves import Frame, Placement, Points, ellipse, points, slanted, smooth, symmetric
from scadm.data.synthetic.factors import Factors, number, present
from scadm.data.synthetic.hair import hair_outline
from scadm.data.synthetic.layers import Detail, Layer

EYE_Y = -0.17
"""The height of the eyes in head units."""

_MOUTH_Y = 0.52


def _head_shape(factors: Factors) -> Points:
    jaw, chin = number(factors, "head.jaw"), number(factors, "head.chin")
    return symmetric(
        [(0, -1), (0.48, -0.9), (0.84, -0.6), (0.98, -0.18), (0.96, 0.18), (jaw, 0.6), (chin, 0.93), (0, 1)]
    )


def skin(factors: Factors, head: Frame, face: Placement) -> Layer:
    """The head with the bare skin of the face."""
    details = [
        Detail((smooth(face(ellipse(side * 0.55, 0.25, 0.27, 0.2))),), "blush", 0.35, soft=True) for side in (1, -1)
    ]
    sockets = tuple(
        smooth(face(ellipse(side * number(factors, "eye.spacing"), EYE_Y - 0.05, 0.3, 0.2))) for side in (1, -1)
    )
    details += [Detail((socket,), "shadow", 0.25, soft=True) for socket in sockets]
    details.append(Detail((smooth(face(ellipse(0, _MOUTH_Y + 0.22, 0.2, 0.045))),), "shadow", 0.35, soft=True))
    if present(factors, "hair"):
        # The hair's own outline, lowered: its shadow on the forehead.
        details.append(Detail((smooth(head.place(hair_outline(factors) + [0, 0.06])),), "shadow", 0.3))
    return Layer("skin", (smooth(head.place(_head_shape(factors))),), head, tuple(details))


def nose(factors: Factors, head: Frame, face: Placement) -> Layer:
    """The nose, with a shadow on the side away from the light."""
    width, length = number(factors, "nose.width"), number(factors, "nose.length")
    tip = -0.16 + length
    shape = symmetric(
        [
            (0, -0.17),
            (0.06, -0.14),
            (0.075, tip - 0.24),
            (0.8 * width, tip - 0.1),
            (width, tip - 0.01),
            (0.6 * width, tip + 0.05),
            (0, tip + 0.07),
        ]
    )
    lean = -np.sign(number(factors, "light.angle"))
    details = (
        Detail((smooth(face(ellipse(lean * 0.16, tip - 0.14, 0.12, 0.3))),), "shadow", 0.35, soft=True),
        Detail((smooth(face(ellipse(0, tip + 0.09, width * 1.1, 0.09))),), "shadow", 0.8, soft=True),
        *(
            Detail((smooth(face(ellipse(side * 0.5 * width, tip + 0.025, 0.045, 0.022))),), "dark", 0.75)
            for side in (1, -1)
        ),
        Detail((smooth(face(ellipse(-lean * 0.03, tip - 0.08, 0.07, 0.09))),), "light", 0.6, soft=True),
    )
    return Layer("nose", (smooth(face(shape)),), head, details)


def eye(factors: Factors, head: Frame, face: Placement, part: str, side: int) -> Layer:
    """The eye `part` on one side of the face: 1 is the right of the picture, -1 its left."""
    size, spread = number(factors, "eye.size"), number(factors, "eye.open")
    x, slant = side * number(factors, "eye.spacing"), side * number(factors, "eye.slant")
    rx, ry = 0.235 * size, 0.125 * size * spread
    inner, outer = x - side * rx, x + side * rx
    almond = points(
        (inner, EYE_Y + 0.02),
        (x - side * 0.5 * rx, EYE_Y - 0.75 * ry),
        (x, EYE_Y - ry),
        (x + side * 0.55 * rx, EYE_Y - 0.8 * ry),
        (outer, EYE_Y - 0.01),
        (outer, EYE_Y - 0.01),
        (x + side * 0.5 * rx, EYE_Y + 0.7 * ry),
        (x, EYE_Y + 0.88 * ry),
        (x - side * 0.55 * rx, EYE_Y + 0.65 * ry),
        (inner, EYE_Y + 0.02),
    )
    shape = slanted(almond, x, EYE_Y, slant)
    look = x + 0.04 * number(factors, "eye.gaze")
    radius = 0.125 * size
    glint = look + 0.045 * np.sign(number(factors, "light.angle"))
    # The line of the lid is the strip between the eye's upper edge and the same edge lowered.
    upper = shape[:5]
    lid = np.concatenate([upper, (upper + [0, 0.035])[::-1]])
    details = (
        Detail((smooth(face(ellipse(look, EYE_Y, radius, radius * 0.72))),), "own"),
        Detail((smooth(face(ellipse(look, EYE_Y, 0.5 * radius, 0.36 * radius))),), "black"),
        Detail((smooth(face(ellipse(glint, EYE_Y - 0.05, 0.036, 0.027))),), "white"),
        Detail((smooth(face(lid)),), "black", 0.85),
    )
    return Layer(part, (smooth(face(shape)),), head, details, ink="eyewhite")


def brow(factors: Factors, head: Frame, face: Placement, part: str, side: int) -> Layer:
    """The brow `part` on one side of the face: 1 is the right of the picture, -1 its left."""
    thick, arch = number(factors, "brow.thickness"), number(factors, "brow.arch")
    x, y = side * number(factors, "eye.spacing"), EYE_Y - number(factors, "brow.height")
    shape = points(
        (x - side * 0.25, y + 0.01),
        (x - side * 0.25, y - 0.9 * thick),
        (x + side * 0.05, y - arch - thick),
        (x + side * 0.29, y + 0.04),
        (x + side * 0.05, y - arch - 0.01),
    )
    return Layer(part, (smooth(face(shape)),), head)


def lips(factors: Factors, head: Frame, face: Placement) -> list[Layer]:
    """Both lips, over the inside of the mouth if it is open."""
    wide, smile = number(factors, "mouth.width"), number(factors, "mouth.smile")
    thick = number(factors, "lip.thickness")
    gap = number(factors, "mouth.open") if present(factors, "mouth") else 0.0
    corner, upper, lower = _MOUTH_Y - smile, _MOUTH_Y, _MOUTH_Y + gap
    upper_lip = points(
        (-wide, corner),
        (-0.55 * wide, corner - 0.9 * thick + 0.4 * smile),
        (-0.16 * wide, upper - 1.25 * thick),
        (0, upper - thick),
        (0.16 * wide, upper - 1.25 * thick),
        (0.55 * wide, corner - 0.9 * thick + 0.4 * smile),
        (wide, corner),
        (0.5 * wide, upper - 0.25 * smile),
        (0, upper),
        (-0.5 * wide, upper - 0.25 * smile),
    )
    lower_lip = points(
        (-wide, corner),
        (-0.5 * wide, lower - 0.25 * smile - 0.1 * gap),
        (0, lower),
        (0.5 * wide, lower - 0.25 * smile - 0.1 * gap),
        (wide, corner),
        (0.55 * wide, lower + 0.9 * thick),
        (0, lower + 1.5 * thick),
        (-0.55 * wide, lower + 0.9 * thick),
    )
    gloss = ellipse(0, lower + 0.75 * thick, 0.3 * wide, 0.3 * thick)
    seam = np.concatenate([lower_lip[:5], (lower_lip[:5] * [0.96, 1] + [0, 0.022])[::-1]])
    details = (Detail((smooth(face(seam)),), "dark", 0.7), Detail((smooth(face(gloss)),), "light", 0.5))
    layers = [
        Layer("u_lip", (smooth(face(upper_lip)),), head),
        Layer("l_lip", (smooth(face(lower_lip)),), head, details),
    ]
    if present(factors, "mouth"):
        inside = np.concatenate([upper_lip[6:], upper_lip[:1], lower_lip[1:4]])
        teeth = ellipse(0, upper - 0.2 * gap, 0.68 * wide, 0.52 * gap)
        tongue = ellipse(0, lower + 0.1 * gap, 0.4 * wide, 0.45 * gap)
        details = (Detail((smooth(face(tongue)),), "tongue"), Detail((smooth(face(teeth)),), "white"))
        layers.insert(0, Layer("mouth", (smooth(face(inside)),), head, details))
    return layers


def ear(factors: Factors, head: Frame, part: str, side: int) -> Layer:
    """The ear `part` on one side of the head: 1 is the right of the picture, -1 its left."""
    size = number(factors, "ear.size")
    # Turning the head shows more of the ear on the side it turns away from.
    out = 0.2 * size - side * 0.006 * number(factors, "pose.turn")
    shape = points(
        (0.85, -0.2),
        (0.98 + 0.6 * out, -0.24 * size),
        (0.98 + out, -0.1),
        (0.98 + 0.75 * out, 0.14),
        (0.96 + 0.3 * out, 0.27),
        (0.85, 0.24),
    )
    inner = ellipse(0.99 + 0.42 * out, 0.0, 0.36 * out, 0.13 * size)
    mirror = [side, 1]
    details = (Detail((smooth(head.place(inner * mirror)),), "shadow", 0.75),)
    return Layer(part, (smooth(head.place(shape * mirror)),), head, details)


def neck(factors: Factors, head: Frame, body: Frame) -> Layer:
    """The neck and bare shoulders, under the shadow of the chin."""
    shape = symmetric([(0, 0.4), (0.56, 0.4), (0.53, 0.95), (0.6, 1.08), (1.0, 1.22), (1.7, 1.4), (2.1, 2.4), (0, 2.4)])
    chin = Detail((smooth(head.place(_head_shape(factors) * [0.98, 1] + [0, 0.12])),), "shadow", 0.9)
    return Layer("neck", (smooth(body.place(shape)),), body, (chin,))
