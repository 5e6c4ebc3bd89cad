"""Contact sheets: columns of faces and masks side by side, as the report and the tracking UI show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from scadm import faces

_GAP = 6
_TITLE_HEIGHT = 26
_PAPER = (255, 255, 255)
_INK = (60, 60, 67)


@dataclass(frozen=True)
class Figure:
    """A picture and what it shows."""

    title: str
    caption: str
    image: Image.Image

    def save(self, path: Path) -> None:
        """As a PNG, which holds title and caption too."""
        words = PngInfo()
        words.add_itxt("Title", self.title)
        words.add_itxt("Description", self.caption)
        self.image.save(path, "PNG", pnginfo=words)

    @classmethod
    def open(cls, path: Path) -> "Figure":
        """What `save` wrote."""
        with Image.open(path) as image:
            image.load()
            return cls(str(image.info["Title"]), str(image.info["Description"]), image)


def contact_sheet(
    columns: Mapping[str, Sequence[NDArray[np.uint8]] | NDArray[np.uint8]],
    row_titles: Sequence[str] = (),
    least_side: int = 128,
) -> Image.Image:
    """A titled grid with one row a face.

    Each column holds as many pictures as the others, all of one size: images (H, W, 3), or label maps (H, W),
    which are painted with the palette. Pictures smaller than `least_side` are enlarged by a whole factor without
    smoothing, so that a pixel stays a pixel. `row_titles` stand at the left.
    Raises ValueError if columns differ in length or size, or there is nothing to show.
    """
    grid = {title: [_paint(picture) for picture in pictures] for title, pictures in columns.items()}
    shapes = {picture.shape for pictures in grid.values() for picture in pictures}
    lengths = {title: len(pictures) for title, pictures in grid.items()}
    if len(shapes) != 1 or len(set(lengths.values())) != 1:
        raise ValueError(
            f"the columns hold {lengths} pictures of sizes {sorted(shapes)}, expected equally many of one size, at "
            "least one: they could not stand side by side. Give every column the same faces."
        )
    rows = next(iter(lengths.values()))
    if row_titles and len(row_titles) != rows:
        raise ValueError(
            f"there are {len(row_titles)} row titles for {rows} rows, expected one each: a face would stand under "
            "another's name. Give one title a row, or none."
        )
    height, width = shapes.pop()[:2]
    factor = max(1, -(-least_side // max(height, width)))
    tile_height, tile_width = height * factor, width * factor

    font = ImageFont.load_default(size=14)
    margin = _GAP + (max(int(font.getlength(title)) for title in row_titles) + _GAP if row_titles else 0)
    # A column is as wide as its title needs, so that titles never run into one another.
    column_widths = [max(tile_width, int(font.getlength(title)) + _GAP) for title in grid]
    lefts = margin + np.cumsum([0, *(wide + _GAP for wide in column_widths)])
    sheet = Image.new("RGB", (int(lefts[-1]), _TITLE_HEIGHT + rows * (tile_height + _GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)

    for (title, pictures), left, wide in zip(grid.items(), lefts, column_widths, strict=False):
        middle = int(left) + wide // 2
        pen.text((middle, _TITLE_HEIGHT // 2), title, fill=_INK, font=font, anchor="mm")
        for row, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((tile_width, tile_height), Image.Resampling.NEAREST)
            sheet.paste(tile, (middle - tile_width // 2, _TITLE_HEIGHT + row * (tile_height + _GAP)))
    for row, title in enumerate(row_titles):
        top = _TITLE_HEIGHT + row * (tile_height + _GAP)
        pen.text((_GAP, top + tile_height // 2), title, fill=_INK, font=font, anchor="lm")
    return sheet


def _paint(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return faces.colourise(picture) if picture.ndim == 2 else picture
