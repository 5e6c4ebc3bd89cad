from pathlib import Path

import archives
import numpy as np
import pytest

from scadm.data.archive import FaceArchive
from scadm.data.folder import count_images, pack_folder

FACES = archives.labelled(["anna", "Bert_2"])


def test_a_packed_folder_reads_back(tmp_path: Path) -> None:
    folder = archives.unpack(tmp_path / "mine", FACES | {"images/.DS_Store": b"", "labels/Thumbs.db": b""})
    done: list[int] = []
    assert count_images(folder) == pack_folder(folder, tmp_path / "new" / "faces.zip", done.append) == sum(done) == 2
    archive = FaceArchive(tmp_path / "new" / "faces.zip")
    assert archive.select() == ("Bert_2", "anna")
    _, labels = archive.files.face("anna")
    np.testing.assert_array_equal(labels, archives.columns())


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    first = archives.unpack(tmp_path / "first", FACES)
    second = archives.unpack(tmp_path / "second", dict(reversed(FACES.items())))
    for file in second.rglob("*.*"):
        file.chmod(0o600)
    packed = []
    for folder in (first, second):
        pack_folder(folder, tmp_path / "faces.zip", lambda _: None)
        packed.append((tmp_path / "faces.zip").read_bytes())
    assert packed[0] == packed[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images/carl.jpg": archives.jpg()}, r"images without a label map for 1 ids \(carl\)"),
        (
            {"labels/carl.png": archives.png(archives.columns())},
            r"label maps without an image for 1 ids \(carl\)",
        ),
        ({"labels/anna.png": archives.png(archives.columns(8)[:6])}, "face anna .*masks of 8 x 6"),
        ({"images/anna.jpg": archives.jpg(40)}, "face anna .*40 x 40 .*masks of 16 x 16"),
        (
            {"labels/anna.png": archives.png(archives.columns() + np.uint8(19))},
            "anna.png holds the label id 34",
        ),
        ({"images/anna.jpg": archives.jpg()[:-200]}, "anna.jpg cannot be decoded"),
        ({"images/anna.webp": b""}, "both anna.jpg and anna.webp"),
        ({"images/anna.gif": b""}, "anna.gif is not a file of type .jpg, .jpeg, .png, .webp"),
        ({"images/an na.jpg": archives.jpg()}, "the id 'an na', expected letters"),
    ],
)
def test_a_folder_with_a_fault_leaves_no_archive(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    folder = archives.unpack(tmp_path / "mine", FACES | changes)
    with pytest.raises(ValueError, match=message):
        pack_folder(folder, tmp_path / "out" / "faces.zip", lambda _: None)
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


def test_a_folder_without_the_two_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images is not a folder, expected images/ and labels/"):
        pack_folder(tmp_path, tmp_path / "faces.zip", lambda _: None)
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="images is empty"):
        pack_folder(tmp_path, tmp_path / "faces.zip", lambda _: None)
