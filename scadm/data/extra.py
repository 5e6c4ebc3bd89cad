"""Further face images without masks, from a zip or a folder: only the autoencoder is trained on them."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scadm.data import pictures
from scadm.data.duplicates import shown_again
from scadm.data.ids import some
from scadm.data.zips import DAMAGED
from scadm.pixels import Images, ImageSource
from scadm.progress import bar

MEMORY = 4 << 30
"""Bytes that the decoded images may take: 87,000 images of 128 pixels, or 21,000 of 256."""

_IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".webp")
_MASKS = ("labels", "CelebAMask-HQ-mask-anno")
"""Folders of masks in the layouts of `scadm.data.archive`."""
_NOTHING = [".gitkeep"]
"""All that the folder holds which means that there are no extra images: the path must exist for DVC to watch it."""
_REMEDY = "Set autoencoder.extra_images to where the images are, or to conf/no_images to train without any."


class ExtraFiles:
    """The image files of a zip or folder, open for reading, in the order of their names.

    They may lie at any depth. Files that are not named as JPEG, PNG or WebP, and hidden ones, are passed over. Opening
    raises ValueError if `path` is neither a whole zip nor a folder, has no image, or has masks among its images. A
    folder with nothing but `.gitkeep` has no images, and that is no error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        else:
            self._zip = _open(path)
            found = sorted(info.filename for info in self._zip.infolist() if not info.is_dir())
        try:
            self.names = () if self._zip is None and found == _NOTHING else _images(path, found)
        except BaseException:
            self._close()
            raise

    def __len__(self) -> int:
        return len(self.names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def decode(self, resolution: int, progress: Callable[[int], object] = lambda _: None) -> Images:
        """All images at a resolution (N, H, W, 3), made smaller as the faces are; `progress` receives 1 for each.

        Raises ValueError naming the image that cannot be read, is not square, or is smaller than `resolution`; and if
        all of them would take more than MEMORY.
        """
        shape = (len(self), resolution, resolution, 3)
        if (size := int(np.prod(shape))) > MEMORY:
            raise ValueError(
                f"{self.path} has {len(self)} images, which take {size / 1e9:.1f} GB at {resolution} pixels, expected "
                f"at most {MEMORY / 1e9:.1f} GB: they are kept in memory. Give fewer in autoencoder.extra_images."
            )
        images = np.empty(shape, np.uint8)
        for image, name in zip(images, self.names, strict=True):
            where = f"{name} in {self.path} (autoencoder.extra_images)"
            image[:] = pictures.at_resolution(pictures.decode_image(self._read(name, where), where), resolution, where)
            progress(1)
        return images

    def _read(self, name: str, where: str) -> bytes:
        if self._zip is None:
            return (self.path / name).read_bytes()
        try:
            return self._zip.read(name)
        except (*DAMAGED, OSError) as error:
            raise ValueError(
                f"{where} is damaged ({error}), expected the bytes that the archive recorded. What it shows is lost: "
                "download or pack the archive again."
            ) from None

    def _close(self) -> None:
        if self._zip is not None:
            self._zip.close()


class ExtraImages:
    """Decoded images (N, H, W, 3) without those that are `left_out` (N,), as an ImageSource."""

    def __init__(self, names: Sequence[str], images: Images, left_out: NDArray[np.bool_]) -> None:
        self._images = images
        self._kept = np.flatnonzero(~left_out)
        self.left_out: tuple[str, ...] = tuple(names[place] for place in np.flatnonzero(left_out).tolist())
        """Their names."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def summary(self) -> str:
        """What there is and what is left out, in words."""
        if not len(self._images):
            return "no extra images"
        if not self.left_out:
            return f"{len(self)} extra images, none of which shows a face of the validation or test split"
        return (
            f"{len(self)} extra images to train on; {len(self.left_out)} more are left out, which show faces of the "
            f"validation or test split: {some(self.left_out, 3)}"
        )

    def image_batch(self, indices: Sequence[int]) -> Images:
        """Images (B, H, W, 3)."""
        return self._images[self._kept[list(indices)]]


def read_extra(path: Path, resolution: int, held_out: Sequence[ImageSource]) -> ExtraImages:
    """The images of a zip or folder that show none of the pictures of `held_out`, with a bar while they are decoded.

    Collections of faces overlap, and what is held out must not be seen by any trained part. Raises ValueError as
    ExtraFiles and its `decode`.
    """
    with ExtraFiles(path) as files:
        if not files.names:
            return ExtraImages((), files.decode(resolution), np.zeros(0, np.bool_))
        with bar(len(files), "extra images", "images") as progress:
            images = files.decode(resolution, progress.update)
    return ExtraImages(files.names, images, shown_again(images, held_out))


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a zip or a folder of face images. {_REMEDY}")
    try:
        return zipfile.ZipFile(path)
    except DAMAGED as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be opened as a zip archive ({error}), expected a whole one "
            f"or a folder. If it was downloaded, download it again to the end. {_REMEDY}"
        ) from None


def _images(path: Path, found: Sequence[str]) -> tuple[str, ...]:
    """The names in `found` that are images'. Raises ValueError if there are none, or one is a mask's."""
    names = tuple(name for name in found if _is_image(PurePosixPath(name)))
    if not names:
        raise ValueError(
            f"{path} has no image among its {len(found)} files, expected names that end in {', '.join(_IMAGE_TYPES)}. "
            f"{_REMEDY}"
        )
    if masks := [name for name in names if set(PurePosixPath(name).parts[:-1]) & set(_MASKS)]:
        raise ValueError(
            f"{path} has {len(masks)} masks among its {len(names)} images ({some(masks, 3)}), expected images of faces "
            f"only. The autoencoder would learn to draw masks: name just the folder of the images. {_REMEDY}"
        )
    return names


def _is_image(name: PurePosixPath) -> bool:
    # Hidden files are what file managers leave behind, such as __MACOSX/._face.jpg, and no pictures.
    return name.suffix.lower() in _IMAGE_TYPES and not any(part.startswith(".") for part in name.parts)
