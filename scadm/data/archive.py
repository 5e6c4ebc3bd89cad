"""Faces and their masks in one zip archive, read in place: nothing is unpacked.

Two layouts, told apart by their members:

- official, as CelebAMask-HQ is published: `CelebA-HQ-img/I.jpg` and for each part that face I shows
  `CelebAMask-HQ-mask-anno/{I // 2000}/{I:05d}_PART.png`, with or without the folder `CelebAMask-HQ/` above;
- labelled, as `scadm.data.folder` packs one's own faces: `images/ID.EXT` and `labels/ID.png` with class ids.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scadm import faces
from scadm.data import ids as naming
from scadm.data import pictures
from scadm.data.members import Member, list_members, read_member

Layout = Literal["official", "labelled"]
_T = TypeVar("_T")

_OFFICIAL_IMAGE = re.compile(r"(?:CelebAMask-HQ/)?CelebA-HQ-img/([^/]+)\.(?:jpg|png)")
_OFFICIAL_PART = re.compile(r"(?:CelebAMask-HQ/)?CelebAMask-HQ-mask-anno/(\d+)/([^/]+)\.png")
_MAPPING = re.compile(r"(?:CelebAMask-HQ/)?CelebA-HQ-to-CelebA-mapping\.txt")
_IMAGE = re.compile(r"images/([^/]+)\.(?:jpg|jpeg|png|webp)", re.IGNORECASE)
_LABEL = re.compile(r"labels/([^/]+)\.png", re.IGNORECASE)
_PICTURES_ONLY = re.compile(
    r"(?:CelebAMask-HQ/)?(?:CelebA-HQ-img|CelebAMask-HQ-mask-anno(?:/\d+)?)/[^/]+|(?:images|labels)/[^/]+"
)
_LITTER = re.compile(r"(?:.*/)?(?:\.[^/]*|Thumbs\.db|desktop\.ini)")
"""What desktops leave in folders."""
_NUMBER = re.compile(r"[0-9]+")
_PARTS = faces.LABELS[1:]


@dataclass(frozen=True)
class FaceFiles:
    """The files of some faces of an archive: what a process needs in order to read them, without the directory."""

    path: Path
    images: Mapping[str, Member]
    masks: Mapping[str, Mapping[str, Member]]
    """For each id the member of each part; a label map is the only one, under the name of its folder."""

    def image(self, id: str) -> Image.Image:
        """The face's image, RGB at its own size. Raises ValueError if it is absent or damaged."""
        member = self._member(self.images, id, "image")
        return pictures.decode_image(read_member(self.path, member), self._where(member))

    def labels(self, id: str) -> NDArray[np.uint8]:
        """The face's class ids (H, W), 0 to 18, at the masks' own size.

        Official part masks are merged in the order of `faces.LABELS`: where two overlap, the later class is
        on top. Raises ValueError if a mask is absent, damaged, or of another size than the face's other
        masks.
        """
        members = self._member(self.masks, id, "masks")
        if "labels" in members:
            member = members["labels"]
            return pictures.decode_labels(read_member(self.path, member), self._where(member))
        return self._merge(members)

    def face(self, id: str) -> tuple[Image.Image, NDArray[np.uint8]]:
        """Image and class ids of a face. Raises ValueError as both do, and unless their sizes agree."""
        image, labels = self.image(id), self.labels(id)
        pictures.require_pair(image, labels, f"face {id} of {self.path}")
        return image, labels

    def _merge(self, members: Mapping[str, Member]) -> NDArray[np.uint8]:
        merged: NDArray[np.uint8] | None = None
        for part in _PARTS:
            if part not in members:
                continue
            member = members[part]
            shown = pictures.decode_part(read_member(self.path, member), self._where(member))
            if merged is None:
                merged = np.zeros(shown.shape, np.uint8)
            elif shown.shape != merged.shape:
                (height, width), (others_height, others_width) = shown.shape, merged.shape
                raise ValueError(
                    f"{self._where(member)} has {width} x {height} pixels, expected {others_width} x "
                    f"{others_height} as the other masks of its face. They cannot be laid over each other: "
                    "replace it, or list the id under data.known_bad."
                )
            merged[shown] = faces.CLASS_ID[part]
        assert merged is not None, "a face with masks has at least one"
        return merged

    def _member(self, members: Mapping[str, _T], id: str, what: str) -> _T:
        if id not in members:
            raise ValueError(f"{self.path} has no {what} for the id {id!r}, expected one of its {len(members)} ids.")
        return members[id]

    def _where(self, member: Member) -> str:
        return f"{member.name} in {self.path}"


class FaceArchive:
    """One archive of faces: its directory, read once. `files` is what reads pictures, here or in other processes.

    Opening raises ValueError if `path` is not a whole zip archive, holds no faces, or has a member that belongs to a
    face but is ambiguous: an unknown part, a bad id, an id twice, or something else than a picture in a folder of
    pictures; and as `list_members` does. Whether every face has an image and masks is checked by `select`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"{self.path} is not a file, expected a zip archive of faces. There is nothing to read: "
                "check data.path, and for a folder of your own images/ and labels/ set data.source to folder."
            )
        self._images: dict[str, Member] = {}
        self._masks: dict[str, dict[str, Member]] = {}
        self._mapping: Member | None = None
        self._folders: dict[int, set[str]] = {}
        self._index(list_members(self.path))
        self.files = FaceFiles(self.path, self._images, self._masks)

    @property
    def mask_files(self) -> int:
        """Number of part masks, or of label maps."""
        return sum(map(len, self._masks.values()))

    @property
    def folders(self) -> Mapping[int, Collection[str]]:
        """Ids of the faces with masks in each numbered folder of the official layout."""
        return self._folders

    def some(self, ids: Iterable[str]) -> FaceFiles:
        """The files of some of the faces, small enough to be sent to another process."""
        wanted = list(ids)
        return FaceFiles(self.path, {id: self._images[id] for id in wanted}, {id: self._masks[id] for id in wanted})

    def select(self, known_bad: Collection[str] = ()) -> tuple[str, ...]:
        """The ids without those in `known_bad`, each with an image and masks.

        Raises ValueError listing the faces that lack one, or ids in `known_bad` that the archive does not
        hold.
        """
        kept = naming.leave_out(self.ids, known_bad, str(self.path))
        for lacking, found, other in (
            ([id for id in kept if id not in self._masks], "images without masks", "masks"),
            ([id for id in kept if id not in self._images], "masks without an image", "image"),
        ):
            if lacking:
                raise ValueError(
                    f"{self.path} has {found} for {len(lacking)} of {len(kept)} ids "
                    f"({naming.some(lacking)}), expected both for every face. These faces cannot be learned "
                    f"from: add the {other}, or list the ids under data.known_bad."
                )
        return kept

    def mapping(self) -> dict[str, int]:
        """CelebA's original index of each id, from the archive's mapping file.

        Raises ValueError if there is none, or a line of it is not `index original-index original-file`.
        """
        if self._mapping is None:
            raise ValueError(
                f"{self.path} has no CelebA-HQ-to-CelebA-mapping.txt, expected it in CelebAMask-HQ/. Without "
                "it CelebA's partition is unknown: use the official archive, or data.split.rule paper or "
                "fraction."
            )
        original = {}
        text = read_member(self.path, self._mapping).decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split()
            if not fields or fields[0] == "idx":  # the header, which not every copy has
                continue
            if len(fields) != 3 or not all(map(_NUMBER.fullmatch, fields[:2])):
                raise ValueError(
                    f"line {number} of {self._where(self._mapping.name)} is {line!r}, expected 'index "
                    "original-index original-file'. Faces would fall into the wrong split: restore the file "
                    "of the official archive."
                )
            original[f"{int(fields[0]):05d}"] = int(fields[1])
        return original

    def _index(self, members: list[Member]) -> None:
        official = labelled = False
        for member in members:
            name = member.name
            if match := _OFFICIAL_IMAGE.fullmatch(name):
                official = True
                self._add_image(self._number(match[1], name), member)
            elif match := _OFFICIAL_PART.fullmatch(name):
                official = True
                number, _, part = match[2].partition("_")
                if part not in _PARTS:
                    raise ValueError(
                        f"{self._where(name)} is a mask of the unknown part {part!r}, expected one of "
                        f"{', '.join(_PARTS)}. It would be left out of its face: rename or remove it."
                    )
                id = self._number(number, name)
                self._add_mask(id, part, member)
                self._folders.setdefault(int(match[1]), set()).add(id)
            elif match := _IMAGE.fullmatch(name):
                labelled = True
                naming.require_id(match[1], self._where(name))
                self._add_image(match[1], member)
            elif match := _LABEL.fullmatch(name):
                labelled = True
                naming.require_id(match[1], self._where(name))
                self._add_mask(match[1], "labels", member)
            elif _MAPPING.fullmatch(name):
                self._mapping = member
            elif _PICTURES_ONLY.fullmatch(name) and not _LITTER.fullmatch(name):
                raise ValueError(
                    f"{self._where(name)} lies among the pictures and is none by its name, expected "
                    "CelebA-HQ-img/N.jpg and mask-anno/F/N_part.png, or images/ID.jpg and labels/ID.png. It would be "
                    "left out: rename or remove it."
                )
        if official == labelled:
            found = "faces of both layouts" if official else f"no faces among its {len(members)} members"
            raise ValueError(
                f"{self.path} has {found}, expected either CelebAMask-HQ/CelebA-HQ-img/ and "
                "CelebAMask-HQ/CelebAMask-HQ-mask-anno/, or images/ and labels/. Nothing can be read from "
                "it: check data.path."
            )
        self.layout: Layout = "official" if official else "labelled"
        every = self._images.keys() | self._masks.keys()
        self.ids: tuple[str, ...] = tuple(sorted(every, key=(lambda id: (int(id), id)) if official else None))

    def _add_image(self, id: str, member: Member) -> None:
        if id in self._images:
            self._refuse_twice(id, self._images[id].name, member.name)
        self._images[id] = member

    def _add_mask(self, id: str, part: str, member: Member) -> None:
        members = self._masks.setdefault(id, {})
        if part in members:
            self._refuse_twice(id, members[part].name, member.name)
        members[part] = member

    def _refuse_twice(self, id: str, first: str, second: str) -> None:
        raise ValueError(
            f"{self.path} has both {first} and {second} for the id {id}, expected one. Which of them is "
            "meant is unknown: remove the other."
        )

    def _number(self, text: str, name: str) -> str:
        if not _NUMBER.fullmatch(text):
            raise ValueError(
                f"{self._where(name)} has {text!r} for a face's number, expected digits as in 0.jpg and "
                "00000_skin.png. It belongs to no face: rename or remove it."
            )
        return f"{int(text):05d}"

    def _where(self, name: str) -> str:
        return f"{name} in {self.path}"
