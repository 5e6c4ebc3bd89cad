"""Layers -> pixels: label maps without antialiasing, and the shaded picture with it.

Both are drawn from the same outlines. The picture blends each layer over those behind it by its coverage; the
label map takes the foremost layer.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import aggdraw
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from scadm.data.synthetic.curves import Outline
from scadm.data.synthetic.factors import TEXTURES, Colour, Factors, colour_of, number
from scadm.data.synthetic.layers import Detail, Layer
from scadm.faces import CLASS_ID, LABELS

_WHITE = np.array([0.97, 0.97, 0.96], dtype=np.float32)
_BLACK = np.array([0.09, 0.07, 0.08], dtype=np.float32)
_TONGUE = np.array([0.86, 0.42, 0.44], dtype=np.float32)
_BLUSH = np.array([0.90, 0.36, 0.34], dtype=np.float32)

INKS: dict[str, Callable[[Colour], Colour]] = {
    "own": lambda colour: colour,
    "shadow": lambda colour: 0.76 * colour,
    "behind": lambda colour: 0.96 * colour,
    "dark": lambda colour: 0.42 * colour,
    "light": lambda colour: 0.45 * colour + 0.55 * _WHITE,
    "glass": lambda colour: 0.45 * colour + 0.55 * _WHITE,
    "blush": lambda colour: 0.5 * colour + 0.5 * _BLUSH,
    "white": lambda colour: _WHITE,
    "eyewhite": lambda colour: 0.06 * colour + 0.94 * _WHITE,
    "black": lambda colour: _BLACK,
    "tongue": lambda colour: _TONGUE,
}
"""Ink name -> the colour it makes of a part's own colour."""

_DIRECTIONAL = 0.26
_RADIAL = 0.16
_TEXTURE = 0.13
_GRADIENT = 0.11
_STREAK = 0.09
_STRAND = 0.06
_RIM = 0.55
_SHADOW = 0.18
_SHADOW_REACH = 0.03  # of the picture's side
_SOFTNESS = 0.045  # of the picture's side
_STRAND_FREQUENCY = 5.0

_SOLID = ("skin", "hair", "hat", "neck", "cloth")
"""Parts that are large enough to be round, and to cast a shadow. Eyes, brows and lips lie in the face."""

_Box: TypeAlias = tuple[slice, slice]


def paint_image(layers: Sequence[Layer], factors: Factors, size: int) -> NDArray[np.uint8]:
    """Paint layers, backmost first: RGB (size, size, 3), 0 to 255, antialiased."""
    image = np.zeros((size, size, 3), dtype=np.float32)
    for layer in layers:
        box = _box(layer.outlines, size)
        if box[0].start >= box[0].stop or box[1].start >= box[1].stop:
            continue
        filled = _rasterise(layer.outlines, size, antialias=True)
        coverage = filled[box] * np.float32(1 / 255)
        colours = _layer_colours(layer, factors, size, box)
        if layer.part in _SOLID:
            soft = _blurred(filled)
            image *= 1 - np.float32(_SHADOW) * _cast(soft, factors)[..., None]
            colours *= _rim(soft[box], coverage)[..., None]
        region = image[box]
        region += coverage[..., None] * (colours - region)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def paint_parts(layers: Sequence[Layer], size: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
    """The label map (size, size) and, per class that owns at least one pixel of it, a bool mask (size, size).

    Masks may overlap where one part hides another. A mask leaves out what a part of a lower class id hides,
    so that laying the masks over each other in the order of the classes gives the label map.
    """
    labels = np.zeros((size, size), dtype=np.uint8)
    fills: dict[str, NDArray[np.bool_]] = {}
    for layer in layers:
        filled = _filled(layer.outlines, size)
        labels[filled] = CLASS_ID[layer.part]
        fills[layer.part] = filled | fills[layer.part] if layer.part in fills else filled
    seen = set(np.unique(labels).tolist())
    parts = {
        name: fills[name] & (labels >= CLASS_ID[name]) for name in LABELS if name in fills and CLASS_ID[name] in seen
    }
    return labels, parts


def _layer_colours(layer: Layer, factors: Factors, size: int, box: _Box) -> NDArray[np.float32]:
    """What a layer looks like in a box, RGB (h, w, 3) in about [0, 1], before it is cut to its outlines."""
    own = colour_of(factors, layer.part)
    x, y = _pixel_centres(size)
    x, y = x[box], y[box]
    colours = np.broadcast_to(INKS[layer.ink](own), (*x.shape, 3)).copy()
    if layer.part in TEXTURES:
        colours += _texture(layer, factors, x, y)[..., None]
    for detail in layer.details:
        _draw_detail(colours, detail, own, size, box)
    colours *= _shade(layer.outlines, factors, x, y)[..., None]
    return colours


def _draw_detail(colours: NDArray[np.float32], detail: Detail, own: Colour, size: int, box: _Box) -> None:
    """Blend a detail into the colours (h, w, 3) of the box that they fill, in place."""
    common = _intersection(_box(detail.outlines, size), box)
    if common[0].start >= common[0].stop or common[1].start >= common[1].stop:
        return
    weight = _soft(detail.outlines, size, common) if detail.soft else _coverage(detail.outlines, size, common)
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start) for inner, outer in zip(common, box, strict=True)
    )
    region = colours[rows, columns]
    region += (detail.opacity * weight)[..., None] * (INKS[detail.ink](own) - region)


def _shade(
    outlines: Sequence[Outline], factors: Factors, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The light on a part that bulges like a cushion over its bounding box: factors (h, w) of mean about 1.

    Only the box's share within the picture counts, or a part cut off by its edge would be light throughout.
    """
    low, high = (np.clip(corner, 0, 1) for corner in _bounds(outlines))
    middle, reach = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
    across = np.clip((x - np.float32(middle[0])) / np.float32(reach[0]), -1.2, 1.2)
    down = np.clip((y - np.float32(middle[1])) / np.float32(reach[1]), -1.2, 1.2)
    angle, strength = np.deg2rad(number(factors, "light.angle")), number(factors, "light.strength")
    facing = np.float32(np.sin(angle)) * across - np.float32(np.cos(angle)) * down
    bulge = np.float32(0.5) - np.float32(0.5) * (across * across + down * down)
    relief = np.float32(_DIRECTIONAL) * facing + np.float32(_RADIAL) * bulge
    return (1 + np.float32(strength) * relief).astype(np.float32, copy=False)


def _blurred(filled: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A coverage (size, size), 0 to 255, out of focus, in [0, 1]: about 1/2 at a straight edge, 1 well inside."""
    blurred = Image.fromarray(filled).filter(ImageFilter.GaussianBlur(_SOFTNESS * len(filled)))
    return np.asarray(blurred, dtype=np.float32) * np.float32(1 / 255)


def _rim(soft: NDArray[np.float32], coverage: NDArray[np.float32]) -> NDArray[np.float32]:
    """A part turns away from the eye at its edge, and darkens there: factors (h, w) of mean 1 over the part."""
    mean = (soft * coverage).sum() / max(coverage.sum(), 1e-6)
    return 1 + np.float32(_RIM) * (soft - np.float32(mean))


def _cast(soft: NDArray[np.float32], factors: Factors) -> NDArray[np.float32]:
    """The shadow (size, size) of a blurred part, in [0, 1], on what is behind it: down and away from the light."""
    reach = _SHADOW_REACH * len(soft)
    across = -reach * np.sin(np.deg2rad(number(factors, "light.angle")))
    shifted = np.roll(soft, (round(reach), round(across)), axis=(0, 1))
    shifted[: round(reach)] = soft[0]
    return shifted


def _texture(layer: Layer, factors: Factors, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a texture adds to each channel of a part (h, w): about 0 on average, as the colour is a factor."""
    kind = factors[f"{layer.part}.texture"]
    inverse = np.linalg.inv(layer.frame.linear).astype(np.float32)
    x, y = x - np.float32(layer.frame.offset[0]), y - np.float32(layer.frame.offset[1])
    across, down = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y
    if layer.strands:
        # Strands run over the crown and then straight down: parallel to the outline of the hair.
        across = np.hypot(across, np.minimum(down, 0))
    else:
        angle = np.deg2rad(number(factors, f"{layer.part}.texture_angle"))
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        across, down = cosine * across - sine * down, sine * across + cosine * down
    strength = number(factors, f"{layer.part}.texture_strength")
    pulse = np.float32(2 * np.pi * number(factors, f"{layer.part}.texture_frequency"))
    if kind == "plain":
        strands = np.float32(_STRAND * strength if layer.strands else 0)
        return strands * np.sin(np.float32(2 * np.pi * _STRAND_FREQUENCY) * across)
    if kind == "gradient":
        return np.float32(_GRADIENT * strength) * across
    if kind == "blurred":
        pattern = np.sin(pulse * across + np.float32(1.5) * np.sin(np.float32(0.5) * pulse * down))
        return np.float32(_TEXTURE * strength) * pattern
    if kind == "stripes":
        pattern = np.sin(pulse * across)
    elif kind == "dots":
        pattern = np.sin(pulse * across) * np.sin(pulse * down) * np.float32(1.4)
    else:
        pattern = np.sin(pulse * across + np.float32(1.2) * np.sin(np.float32(0.6) * pulse * down))
    if layer.strands:  # streaks of another shade, softer than a print
        return np.float32(_STREAK * strength) * pattern
    # Steeper than a sine, so that it reads as a print rather than as a blur.
    pattern = np.clip(np.float32(1.5) * pattern, -1, 1)
    return np.float32(_TEXTURE * strength) * pattern


def _coverage(outlines: Sequence[Outline], size: int, box: _Box) -> NDArray[np.float32]:
    """How much of each pixel of a box the outlines cover, (h, w) in [0, 1]."""
    return _rasterise(outlines, size, antialias=True)[box] * np.float32(1 / 255)


def _filled(outlines: Sequence[Outline], size: int) -> NDArray[np.bool_]:
    return _rasterise(outlines, size, antialias=False) > 0


def _rasterise(outlines: Sequence[Outline], size: int, *, antialias: bool) -> NDArray[np.uint8]:
    """Fill the union of outlines on a canvas (size, size), 0 to 255."""
    canvas = aggdraw.Draw("L", (size, size), 0)
    canvas.setantialias(antialias)
    brush = aggdraw.Brush(255)
    for outline in outlines:
        canvas.path(_path(outline, size), None, brush)
    return np.frombuffer(canvas.tobytes(), dtype=np.uint8).reshape(size, size)


def _path(outline: Outline, size: int) -> aggdraw.Path:
    path = aggdraw.Path()
    path.moveto(*(outline[-1, 2] * size).tolist())
    for segment in (outline * size).reshape(-1, 6).tolist():
        path.curveto(*segment)
    path.close()
    return path


def _soft(outlines: Sequence[Outline], size: int, box: _Box) -> NDArray[np.float32]:
    """A weight (h, w) that falls from 1 amid the outlines' bounding box to 0 at the ellipse within it."""
    low, high = _bounds(outlines)
    middle, reach = ((low + high) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)
    x, y = _pixel_centres(size)
    distance = ((x[box] - middle[0]) / reach[0]) ** 2 + ((y[box] - middle[1]) / reach[1]) ** 2
    return np.maximum(1 - distance, 0)


def _bounds(outlines: Sequence[Outline]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest x, y (2,) of the control points, which enclose the curves."""
    points = np.concatenate(outlines).reshape(-1, 2)
    return points.min(axis=0), points.max(axis=0)


def _box(outlines: Sequence[Outline], size: int) -> _Box:
    """Rows and columns that outlines may touch, with a margin of a pixel for antialiasing."""
    low, high = _bounds(outlines)
    (left, top), (right, bottom) = (low * size).tolist(), (high * size).tolist()
    return _span(top, bottom, size), _span(left, right, size)


def _span(low: float, high: float, size: int) -> slice:
    return slice(min(max(int(low) - 1, 0), size), min(max(int(high) + 2, 0), size))


def _intersection(first: _Box, second: _Box) -> _Box:
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return rows, columns


@lru_cache(maxsize=4)
def _pixel_centres(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y of every pixel's centre in the unit square, each (size, size)."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return x, y
