"""Where the parts of a face lie: factors -> a stack of layers in the unit square."""

import numpy as np
from numpy.typing import NDArray

from scadm.data.synthetic.curves import Frame, points, smooth, turned
from scadm.data.synthetic.factors import Factors, number, present
from scadm.data.synthetic.features import brow, ear, eye, lips, neck, nose, skin
from scadm.data.synthetic.hair import hair_back, hair_front
from scadm.data.synthetic.layers import Layer
from scadm.data.synthetic.wear import cloth, earrings, glasses, hat, necklace

_HALF_WIDTH = 0.252
_HALF_HEIGHT = 0.344
_CENTRE = (0.5, 0.53)


def build_layers(factors: Factors) -> list[Layer]:
    """The layers of a face from the backmost to the foremost, in the unit square.

    This is the order in space, not that of the class list: a neck is behind the chin although its class
    comes later, and hair may be both behind the neck and before the ears.
    """
    head, body = _head_frame(factors), _body_frame(factors)
    face = turned(head, number(factors, "pose.turn"))
    layers = [_background(body)]
    if present(factors, "hair"):
        layers += hair_back(factors, head)
    if present(factors, "neck"):
        layers.append(neck(factors, head, body))
    if present(factors, "cloth"):
        layers.append(cloth(factors, body))
    if present(factors, "neck_l"):
        layers.append(necklace(factors, body))
    layers += [ear(factors, head, part, side) for part, side in (("l_ear", 1), ("r_ear", -1)) if present(factors, part)]
    layers += [skin(factors, head, face), nose(factors, head, face)]
    if present(factors, "eye_g"):
        layers.append(glasses(factors, head, face))
    for part, side in (("l_eye", 1), ("r_eye", -1)):
        if present(factors, part):
            layers.append(eye(factors, head, face, part, side))
    layers += [brow(factors, head, face, part, side) for part, side in (("l_brow", 1), ("r_brow", -1))]
    layers += lips(factors, head, face)
    if present(factors, "hair"):
        layers.append(hair_front(factors, head))
    if present(factors, "hat"):
        layers.append(hat(factors, head))
    if present(factors, "ear_r"):
        layers.append(earrings(factors, head))
    return layers


def _head_frame(factors: Factors) -> Frame:
    size = number(factors, "pose.scale")
    angle = np.deg2rad(number(factors, "pose.tilt"))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag(
        [
            size * _HALF_WIDTH * number(factors, "head.width"),
            size * _HALF_HEIGHT * number(factors, "head.height"),
        ]
    )
    return Frame(turn @ stretch, _centre(factors))


def _body_frame(factors: Factors) -> Frame:
    """The head's frame without its tilt and its own proportions: shoulders stay level."""
    return Frame(number(factors, "pose.scale") * np.diag([_HALF_WIDTH, _HALF_HEIGHT]), _centre(factors))


def _centre(factors: Factors) -> NDArray[np.float64]:
    return np.array(_CENTRE) + [number(factors, "pose.x"), number(factors, "pose.y")]


def _background(frame: Frame) -> Layer:
    corners = points((-0.2, -0.2), (1.2, -0.2), (1.2, 1.2), (-0.2, 1.2))
    return Layer("background", (smooth(np.repeat(corners, 2, axis=0)),), frame)
