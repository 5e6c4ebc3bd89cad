import io
import pickle
import random
import zipfile
from pathlib import Path

import archives
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scadm import faces
from scadm.data.archive import FaceArchive
from scadm.faces import mirror_labels
from scadm.inspection.suspects import sides

SKIN, HAIR = faces.CLASS_ID["skin"], faces.CLASS_ID["hair"]
OFFICIAL_ORDER = [
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
]


def read_all(path: Path) -> None:
    archive = FaceArchive(path)
    for id in archive.select():
        archive.files.face(id)


def test_the_official_layout_merges_parts_with_later_classes_on_top(tmp_path: Path) -> None:
    path = archives.pack(tmp_path / "faces.zip", archives.official([10, 9, 2001]))
    archive = FaceArchive(path)
    assert archive.layout == "official"
    assert archive.ids == archive.select() == ("00009", "00010", "02001")
    assert archive.mask_files == 6
    image, labels = archive.files.face("00010")
    assert (image.mode, image.size) == ("RGB", (16, 16))
    assert labels.dtype == np.uint8
    assert (labels[:8] == HAIR).all(), "hair comes after skin in the official order"
    assert (labels[8:] == SKIN).all()


def test_the_labelled_layout_keeps_its_ids_sorted(tmp_path: Path) -> None:
    path = archives.pack(tmp_path / "faces.zip", archives.labelled(["b-2", "a_1"]))
    archive = FaceArchive(path)
    assert archive.layout == "labelled"
    assert archive.select() == ("a_1", "b-2")
    np.testing.assert_array_equal(archive.files.labels("b-2"), archives.columns())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_part_mask_may_have_any_mode(tmp_path: Path, mode: str) -> None:
    mask = Image.fromarray(archives.band(3, 7))
    if mode == "P":  # black is not at index 0
        picture = Image.fromarray((archives.band(3, 7) == 0).astype(np.uint8))
        picture.putpalette([255, 255, 255, 0, 0, 0])
    else:
        picture = mask.convert(mode)
    assert picture.mode == mode
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    members = {archives.image_name(0): archives.jpg(), archives.part_name(0, "nose"): buffer.getvalue()}
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    np.testing.assert_array_equal(archive.files.labels("00000") > 0, np.asarray(mask) > 0)


def test_masks_may_have_half_the_images_side(tmp_path: Path) -> None:
    members = archives.official([0], side=8) | {archives.image_name(0): archives.jpg(16)}
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    image, labels = archive.files.face("00000")
    assert (image.width, labels.shape) == (16, (8, 8))


def test_the_files_of_some_faces_travel_without_the_directory(tmp_path: Path) -> None:
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", archives.official(range(200))))
    expected = archive.files.labels("00007")
    data = pickle.dumps(archive.some(["00007", "00101"]))
    assert len(data) < 2000
    arrived = pickle.loads(data)
    np.testing.assert_array_equal(arrived.labels("00007"), expected)
    with pytest.raises(ValueError, match="no image for the id '00008'"):
        arrived.image("00008")


def test_what_belongs_to_no_face_is_passed_over(tmp_path: Path) -> None:
    members = archives.official([0]) | {
        "CelebAMask-HQ/README.txt": b"",
        "CelebAMask-HQ/CelebA-HQ-img/": b"",
        "CelebAMask-HQ/CelebA-HQ-img/.DS_Store": b"",
        "CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/Thumbs.db": b"",
        "__MACOSX/CelebAMask-HQ/CelebA-HQ-img/._0.jpg": b"",
    }
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    assert archive.ids == ("00000",)


def test_known_bad_faces_are_left_out_by_name_only(tmp_path: Path) -> None:
    members = archives.official([0, 1, 2])
    del members[archives.image_name(1)]
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    assert archive.select(["00001"]) == ("00000", "00002")
    with pytest.raises(ValueError, match="known_bad lists 1, expected ids"):
        archive.select(["1"])


@pytest.mark.parametrize("header", ["idx     orig_idx        orig_file\n", ""])
def test_the_mapping_gives_celebas_index(tmp_path: Path, header: str) -> None:
    text = header + "0          119613     119614.jpg\n29999      116054     116055.jpg\n"
    members = archives.official([0]) | {"CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt": text.encode()}
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    assert archive.mapping() == {"00000": 119613, "29999": 116054}


def test_a_damaged_mapping_names_its_line(tmp_path: Path) -> None:
    members = archives.official([0]) | {"CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt": b"0 5 6.jpg\n1 x y\n"}
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    with pytest.raises(ValueError, match=r"line 2 .*expected 'index"):
        archive.mapping()


def test_without_a_mapping_the_message_says_what_to_do(tmp_path: Path) -> None:
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", archives.official([0])))
    with pytest.raises(ValueError, match=r"no CelebA-HQ-to-CelebA-mapping.txt.*rule paper or fraction"):
        archive.mapping()


def without_masks() -> dict[str, bytes]:
    return archives.official(range(3)) | {archives.image_name(number): archives.jpg() for number in range(3, 16)}


def without_image() -> dict[str, bytes]:
    members = archives.official(range(3))
    del members[archives.image_name(1)]
    return members


def with_official(name: str, data: bytes) -> dict[str, bytes]:
    return archives.official([0]) | {name: data}


def with_labelled(name: str, data: bytes) -> dict[str, bytes]:
    return archives.labelled(["a"]) | {name: data}


NOSE = archives.part_name(0, "nose")
IMAGE = archives.image_name(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (without_masks(), r"images without masks for 13 of 16 ids \(00003, .*00012 and 3 more\)"),
        (without_image(), r"masks without an image for 1 of 3 ids \(00001\)"),
        (with_official(archives.part_name(0, "beard"), b""), "00000_beard.png .*unknown part 'beard'"),
        (
            with_official(NOSE, archives.png(archives.band(0, 4, 8))),
            "00000_nose.png .*has 8 x 8 .*expected 16 x 16",
        ),
        (with_official(NOSE, b"not a picture"), "00000_nose.png .*cannot be decoded"),
        (with_official(IMAGE, archives.jpg()[:400]), "/0.jpg .*cannot be decoded"),
        (with_official(IMAGE, archives.jpg(24)), "face 00000 .*24 x 24 .*masks of 16 x 16"),
        (with_official("CelebAMask-HQ/CelebA-HQ-img/00.jpg", archives.jpg()), "both .*0.jpg and .*00.jpg"),
        (with_official("CelebAMask-HQ/CelebA-HQ-img/x.jpg", archives.jpg()), "'x' for a face's number"),
        (
            with_labelled("labels/a.png", archives.png(archives.band(0, 1) // 255 * 19)),
            "labels/a.png .*label id 19",
        ),
        (with_labelled("labels/a.png", archives.png(np.zeros((16, 16, 3), np.uint8))), "colour mode RGB"),
        (with_labelled("labels/a.png", archives.png(np.zeros((16, 8), np.uint8))), "masks of 8 x 16"),
        (with_labelled("images/a.webp", b""), "both images/a.jpg and images/a.webp"),
        (with_labelled("images/a.b.jpg", b""), r"the id 'a\.b'"),
        (archives.official([0]) | archives.labelled(["a"]), "both layouts"),
        ({"notes.txt": b"nothing here"}, "no faces among its 1 members"),
        ({}, "no faces among its 0 members"),
    ],
)
def test_bad_members_are_refused_by_name(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = archives.pack(tmp_path / "faces.zip", members)
    with pytest.raises(ValueError, match=message):
        read_all(path)


def test_images_that_would_be_read_by_a_guess_are_refused(tmp_path: Path) -> None:
    turned, glassy = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 16)).save(turned, "JPEG", exif=exif)
    Image.new("RGBA", (16, 16), (9, 9, 9, 128)).save(glassy, "PNG")
    for name, data, message in (
        ("a.jpg", turned, "EXIF orientation 6"),
        ("a.png", glassy, "partly transparent"),
    ):
        members = {f"images/{name}": data.getvalue(), "labels/a.png": archives.png(archives.columns())}
        with pytest.raises(ValueError, match=message):
            read_all(archives.pack(tmp_path / "faces.zip", members))


def test_a_path_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file"):
        FaceArchive(tmp_path)
    (tmp_path / "faces.zip").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ValueError, match=r"cannot be opened as a zip archive.*download it again"):
        FaceArchive(tmp_path / "faces.zip")


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_an_archive_truncated_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = archives.pack(tmp_path_factory.mktemp("truncated") / "faces.zip", archives.official([0, 1]))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="expected a whole one"):
        FaceArchive(path)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damaged_bytes_end_in_a_message_or_change_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = archives.pack(tmp_path_factory.mktemp("damaged") / "faces.zip", archives.official([0]))
    data, place = bytearray(path.read_bytes()), random.Random(seed)
    data[place.randrange(len(data))] ^= 1 << place.randrange(8)
    path.write_bytes(data)
    try:
        read_all(path)
    except ValueError as error:
        assert "expected" in str(error)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = archives.pack(tmp_path / "faces.zip", archives.official([0, 1]))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(archives.image_name(1))
    data = bytearray(path.read_bytes())
    data[info.header_offset + 200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"CelebA-HQ-img/1.jpg .*damaged \(Bad CRC-32"):
        read_all(path)


def painted(archive: zipfile.ZipFile, number: int) -> np.ndarray:
    """The label map as a painter makes it, by its own reading of the official archive's rules."""
    names = set(archive.namelist())
    canvas = np.zeros((512, 512), int)
    for value, part in enumerate(OFFICIAL_ORDER, start=1):
        name = archives.part_name(number, part)
        if name in names:
            grey = np.array(Image.open(archive.open(name)).convert("RGB"))[:, :, 0]
            canvas = np.where(grey > 0, value, canvas)
    return canvas


def test_real_masks_merge_as_an_independent_painter_merges_them(shared: Path) -> None:
    path = shared / "data" / "celebamask-hq-mini.zip"
    archive = FaceArchive(path)
    assert len(archive.select()) == 720
    with zipfile.ZipFile(path) as plain:
        for number in range(0, 720, 18):
            np.testing.assert_array_equal(archive.files.labels(f"{number:05d}"), painted(plain, number))


def test_left_and_right_of_real_faces_agree_before_and_after_mirroring(shared: Path) -> None:
    """A person's left eye is on the right of the picture; mirroring must exchange the names with the sides."""
    archive = FaceArchive(shared / "data" / "celebamask-hq-mini.zip")
    agreed = {"as they are": 0, "mirrored": 0, "mirrored without exchange": 0}
    both = 0
    for id in archive.ids[::8]:
        labels = archive.files.labels(id)
        if sides(labels).eye:
            both += 1
            agreed["as they are"] += sides(labels).eye == 1
            agreed["mirrored"] += sides(mirror_labels(labels)).eye == 1
            agreed["mirrored without exchange"] += sides(labels[:, ::-1]).eye == 1
    assert both > 80
    assert agreed["as they are"] >= 0.99 * both and agreed["mirrored"] >= 0.99 * both
    assert agreed["mirrored without exchange"] <= 0.01 * both, "the control"
