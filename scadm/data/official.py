"""What is known of CelebAMask-HQ as it is published."""

import math
from collections import Counter
from pathlib import PurePosixPath

from scadm.data.archive import FaceArchive
from scadm.data.ids import some

IMAGES = 30_000
PER_FOLDER = 2_000
"""Faces whose masks lie in one folder: face i in folder i // 2000."""

TERMS = (
    "CelebAMask-HQ and CelebA-HQ are for non-commercial research and education only; their images are not the "
    "publishers' property, and must not be passed on or sold. The same holds for what is trained on them."
)


def require_whole(archive: FaceArchive) -> None:
    """Raise ValueError unless the archive holds every face of the data set, with its masks in the right folder."""
    expected = [f"{i:05d}" for i in range(IMAGES)]
    if list(archive.ids) != expected:
        lacking = sorted(set(expected) - set(archive.ids))
        raise ValueError(
            f"{archive.path} has {len(archive.ids)} faces, expected the {IMAGES} of CelebAMask-HQ, 00000 to "
            f"{IMAGES - 1} (lacking: {some(lacking) or 'none'}). It is another archive, or not the whole one. To train "
            "on it all the same, fetch it yourself, and name its path in data.path, with data.addresses []."
        )
    folders = math.ceil(IMAGES / PER_FOLDER)
    if beyond := sorted(set(archive.folders) - set(range(folders))):
        raise ValueError(
            f"{archive.path} has masks in the folders {beyond}, expected 0 to {folders - 1} only (there are masks of "
            f"{some(id for folder in beyond for id in archive.folders[folder])}). The archive is not as it was "
            "published."
        )
    for folder in range(folders):
        found, right = set(archive.folders.get(folder, ())), set(expected[folder * PER_FOLDER :][:PER_FOLDER])
        if found != right:
            raise ValueError(
                f"{archive.path} has masks of {len(found)} faces in folder {folder}, expected those of the "
                f"{PER_FOLDER} faces {min(right)} to {max(right)} (lacking: {some(sorted(right - found)) or 'none'}; "
                f"of others: {some(sorted(found - right)) or 'none'}). The archive is not as it was published."
            )


def masks_by_folder(archive: FaceArchive) -> dict[int, int]:
    """Number of mask files in each numbered folder of an archive in the official layout."""
    files = [member.name for masks in archive.files.masks.values() for member in masks.values()]
    return dict(sorted(Counter(int(PurePosixPath(name).parent.name) for name in files).items()))
