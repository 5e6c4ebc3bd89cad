"""Tiny archives and folders of faces, made on the fly."""

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16


def png(pixels: NDArray[np.uint8]) -> bytes:
    return _encoded(Image.fromarray(pixels), "PNG")


def jpg(side: int = SIDE, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return _encoded(Image.fromarray(noise), "JPEG")


def band(first: int, last: int, side: int = SIDE) -> NDArray[np.uint8]:
    """A part mask (side, side): 255 in the rows `first` to `last` - 1."""
    mask = np.zeros((side, side), np.uint8)
    mask[first:last] = 255
    return mask


def image_name(number: int) -> str:
    return f"CelebAMask-HQ/CelebA-HQ-img/{number}.jpg"


def part_name(number: int, part: str) -> str:
    return f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/{number // 2000}/{number:05d}_{part}.png"


def official(numbers: Iterable[int], side: int = SIDE) -> dict[str, bytes]:
    """The members of an official archive in which hair lies over the upper part of the skin."""
    members = {}
    for number in numbers:
        members[image_name(number)] = jpg(side, number)
        members[part_name(number, "hair")] = png(band(0, side // 2, side))
        members[part_name(number, "skin")] = png(band(side // 4, side, side))
    return members


def labelled(ids: Iterable[str], side: int = SIDE) -> dict[str, bytes]:
    """The members of a labelled archive, whose label maps are columns of the ids 0, 1, 2, ..."""
    members = {}
    for seed, id in enumerate(ids):
        members[f"images/{id}.jpg"] = jpg(side, seed)
        members[f"labels/{id}.png"] = png(columns(side))
    return members


def columns(side: int = SIDE) -> NDArray[np.uint8]:
    return np.tile(np.arange(side, dtype=np.uint8) % 19, (side, 1))


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unpack(folder: Path, members: Mapping[str, bytes]) -> Path:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()
