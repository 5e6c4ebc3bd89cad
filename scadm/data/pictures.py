"""From the bytes of a picture file to arrays, refusing what could not be read without a guess.

`where` names the file in messages.
"""

import functools
import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops

from scadm import faces

_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_FORMATS = ("JPEG", "PNG", "WEBP")
_IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA")
_LABEL_MODES = ("L", "P", "I;16", "I")


def _decode(data: bytes, where: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        picture.load()
    except _UNDECODABLE as error:
        raise ValueError(
            f"{where} cannot be decoded ({error}), expected a whole JPEG, PNG or WebP. Its face would be "
            "missing: replace the file, or leave it out (a face of the archive at data.path by data.known_bad)."
        ) from None
    return picture


def decode_image(data: bytes, where: str) -> Image.Image:
    """An image file as an RGB picture.

    Raises ValueError if it cannot be decoded, is transparent or has more than 8 bits a channel, or is stored
    turned (its pixels would not lie under its masks).
    """
    picture = _decode(data, where)
    if picture.mode not in _IMAGE_MODES:
        raise ValueError(
            f"{where} has the colour mode {picture.mode}, expected 8-bit RGB or grey. Its colours would be "
            "clipped: save it as RGB."
        )
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1)
    if turned != 1:
        raise ValueError(
            f"{where} is stored turned (EXIF orientation {turned}), expected 1, upright. It would be "
            "learned as its pixels lie, and masks would not lie on them: save it upright and without that entry."
        )
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ValueError(
            f"{where} is partly transparent, expected opaque pixels. The colours under transparency are "
            "arbitrary and would be learned: flatten it onto a background."
        )
    return picture.convert("RGB")


def at_resolution(image: Image.Image, resolution: int, where: str) -> NDArray[np.uint8]:
    """A square image as a model sees it: RGB (H, W, 3), made smaller by an antialiased bicubic filter.

    Raises ValueError if it is not square, or smaller than `resolution`.
    """
    found = f"{where} has {image.width} x {image.height} pixels"
    if image.width != image.height:
        raise ValueError(f"{found}, expected a square. Made one, it would be distorted: crop it to the face.")
    if image.width < resolution:
        raise ValueError(
            f"{found}, expected at least the project.resolution {resolution}. Enlarged, it would teach the model to be "
            "blurred: lower the resolution, or give larger images."
        )
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))


def decode_part(data: bytes, where: str) -> NDArray[np.bool_]:
    """A part's mask file as a bool array (H, W): True where it is not black. Raises ValueError."""
    picture = _decode(data, where)
    if picture.mode == "P":  # a palette may put black at any index
        picture = picture.convert("RGB")
    bands = [band for name, band in zip(picture.getbands(), picture.split(), strict=True) if name != "A"]
    return np.asarray(functools.reduce(ImageChops.lighter, bands)) > 0


def decode_labels(data: bytes, where: str) -> NDArray[np.uint8]:
    """A label map file as class ids (H, W), 0 to 18; of a palette picture the indices are the ids.

    Raises ValueError if it cannot be decoded, has several channels or an id that is not a class.
    """
    picture = _decode(data, where)
    if picture.mode not in _LABEL_MODES:
        raise ValueError(
            f"{where} has the colour mode {picture.mode}, expected one channel of class ids. Colours do not "
            "say which part they mean: save a grey or palette PNG whose values are positions in "
            "scadm.faces.LABELS."
        )
    ids = np.asarray(picture)
    faces.require_ids(ids, where)
    return ids.astype(np.uint8)


def require_pair(image: Image.Image, labels: NDArray[np.uint8], where: str) -> None:
    """Raise ValueError unless both are square and the label map has the image's side or half of it."""
    height, width = labels.shape
    side = image.width
    if image.height != side or height != width or side not in (width, 2 * width):
        raise ValueError(
            f"{where} has an image of {image.width} x {image.height} pixels and masks of {width} x {height}, "
            "expected squares, the masks with the image's side or half of it. The masks would not lie on the "
            "parts: crop both alike, or leave the face out (in an archive, by data.known_bad)."
        )
