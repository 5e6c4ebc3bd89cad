"""CelebAMask-HQ as it is published, in small."""

from pathlib import Path

import archives
import pytest

from scadm.data import official
from scadm.data.archive import FaceArchive


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "IMAGES", 6)
    monkeypatch.setattr(official, "PER_FOLDER", 2)


def part_name(number: int, part: str) -> str:
    return archives.part_name(number, part).replace("anno/0/", f"anno/{number // 2}/")


def members(numbers: range) -> dict[str, bytes]:
    found = {archives.image_name(number): archives.jpg() for number in numbers}
    return found | {part_name(number, "skin"): archives.png(archives.band(0, 9)) for number in numbers}


def check(path: Path, content: dict[str, bytes]) -> None:
    official.require_whole(FaceArchive(archives.pack(path / "faces.zip", content)))


def test_the_whole_archive_passes(tmp_path: Path) -> None:
    check(tmp_path, members(range(6)))


@pytest.mark.parametrize("numbers", [range(5), range(7), range(1, 7)])
def test_another_number_of_faces_is_refused(tmp_path: Path, numbers: range) -> None:
    with pytest.raises(ValueError, match=f"has {len(numbers)} faces, expected the 6 of CelebAMask-HQ, 00000 to 5"):
        check(tmp_path, members(numbers))


def test_masks_in_a_folder_beyond_the_last_are_refused(tmp_path: Path) -> None:
    content = members(range(6))
    content[part_name(3, "hair").replace("anno/1/", "anno/3/")] = archives.png(archives.band(0, 4))
    with pytest.raises(ValueError, match=r"has masks in the folders \[3\], expected 0 to 2 only \(.* of 00003\)"):
        check(tmp_path, content)


def test_masks_are_counted_by_folder(tmp_path: Path) -> None:
    content = members(range(6)) | {part_name(3, "hair"): archives.png(archives.band(0, 4))}
    assert official.masks_by_folder(FaceArchive(archives.pack(tmp_path / "a.zip", content))) == {0: 2, 1: 3, 2: 2}


def test_masks_in_another_folder_are_refused(tmp_path: Path) -> None:
    content = members(range(6))
    name = part_name(3, "skin")
    content[name.replace("anno/1/", "anno/2/")] = content.pop(name)
    with pytest.raises(ValueError, match=r"masks of 1 faces in folder 1, expected .*00002 to 00003 \(lacking: 00003;"):
        check(tmp_path, content)
