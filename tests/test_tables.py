import os
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scadm import faces
from scadm.config import MasksConfig, SplitConfig
from scadm.data.archive import FaceArchive
from scadm.data.parts import make_part, part_tasks, read_face, require_rows, resized
from scadm.data.splits import assign
from scadm.data.tables import FaceTable, pack_onehot, part_name, unpack_labels
from scadm.files.manifest import Split

SIDES = st.sampled_from([8, 16, 24])
COUNT, SIDE, RESOLUTION = 40, 32, 16
IDS = [f"{number:05d}" for number in range(COUNT)]
MASKS = MasksConfig(resize="nearest", rows_per_part=20)
SPLITS = assign(IDS, SplitConfig(rule="fraction", validation=0.2, test=0.2), 0, {})


@pytest.fixture(scope="module")
def archive_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = archives.official(range(COUNT), SIDE)
    return archives.pack(tmp_path_factory.mktemp("tables") / "faces.zip", members)


@pytest.fixture
def tables(archive_path: Path, tmp_path: Path) -> Path:
    """A folder with the parts of rows 0 to 19 and 20 to 39."""
    for task in part_tasks(FaceArchive(archive_path), SPLITS, RESOLUTION, MASKS, tmp_path):
        make_part(**task)
    return tmp_path


@given(labels=SIDES.flatmap(lambda side: arrays.arrays(np.uint8, (side, side), elements=st.integers(0, 18))))
def test_packing_has_an_inverse(labels: np.ndarray) -> None:
    side = len(labels)
    packed = pack_onehot(labels)
    assert len(packed) == 19 * side * side // 8
    onehot = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(19, side, side)
    np.testing.assert_array_equal(onehot, labels == np.arange(19)[:, None, None])
    np.testing.assert_array_equal(unpack_labels(packed, side), labels)


def test_parts_cover_all_rows_and_are_named_by_range(tables: Path) -> None:
    assert sorted(path.name for path in tables.iterdir()) == [
        "part-000000-000019.parquet",
        "part-000020-000039.parquet",
    ]


def test_rows_are_the_archives_faces_in_its_order(archive_path: Path, tables: Path) -> None:
    table = FaceTable(tables, None)
    assert (table.ids, table.resolution, len(table)) == (tuple(IDS), RESOLUTION, COUNT)
    images, labels = table.batch(range(COUNT))
    assert (images.shape, images.dtype) == ((COUNT, RESOLUTION, RESOLUTION, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((COUNT, RESOLUTION, RESOLUTION), np.uint8)
    archive = FaceArchive(archive_path)
    for row, id in enumerate(IDS):
        image, labels_of_face = read_face(archive.files, id, RESOLUTION, "nearest")
        np.testing.assert_array_equal(images[row], image)
        np.testing.assert_array_equal(labels[row], labels_of_face)
        np.testing.assert_array_equal(table.pixels[row], np.bincount(labels_of_face.ravel(), minlength=19))


def test_a_batch_comes_in_the_order_asked_for(tables: Path) -> None:
    table = FaceTable(tables, None)
    every_image, every_label = table.batch(range(COUNT))
    wanted = [39, 0, 17, 16, 0, 21]
    images, labels = table.batch(wanted)
    np.testing.assert_array_equal(images, every_image[wanted])
    np.testing.assert_array_equal(labels, every_label[wanted])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_is_seen_alone(tables: Path, split: Split) -> None:
    every, chosen = FaceTable(tables, None), FaceTable(tables, split)
    rows = [row for row, id in enumerate(IDS) if SPLITS[id] == split]
    assert chosen.ids == tuple(IDS[row] for row in rows)
    np.testing.assert_array_equal(chosen.pixels, every.pixels[rows])
    np.testing.assert_array_equal(chosen.batch([1, 0])[0], every.batch([rows[1], rows[0]])[0])


def test_class_shares_count_the_faces_that_show_a_class(tables: Path) -> None:
    shares = {name: (faces_share, area) for name, faces_share, area in FaceTable(tables, "train").class_shares()}
    assert tuple(shares) == faces.LABELS
    assert (shares["hair"], shares["skin"], shares["hat"]) == ((1, 0.5), (1, 0.5), (0, 0))


def test_labels_are_resized_without_mixing_ids(tmp_path: Path) -> None:
    members = archives.labelled(["a"], 64)
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    _, labels = read_face(archive.files, "a", 16, "nearest")
    expected = archive.files.labels("a")[2::4, 2::4]
    np.testing.assert_array_equal(labels, expected)


@given(seed=st.integers(0, 2**32), factor=st.sampled_from([2, 4, 8]))
def test_by_area_the_class_that_covers_most_of_a_pixel_wins(seed: int, factor: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 19, (16, 16), dtype=np.uint8)
    found = resized(labels, 16 // factor, "area")
    blocks = rearrange(labels, "(h a) (w b) -> h w (a b)", a=factor, b=factor)
    counts = (blocks[..., None] == np.arange(19)).sum(axis=2)
    np.testing.assert_array_equal(found, counts.argmax(axis=2))


def test_by_area_a_thin_part_is_kept_where_nearest_loses_it() -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[:, 3:5] = 7  # two of the three columns of a new pixel, and not its middle one
    labels[:, 4] = 0
    labels[:, 5] = 7
    assert (resized(labels, 4, "area")[:, 1] == 7).all()
    assert not (resized(labels, 4, "nearest") == 7).any()


def test_images_are_antialiased(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(axis=0, dtype=np.uint8) % 2 * 255
    members = {"images/a.png": archives.png(board), "labels/a.png": archives.png(archives.columns(64))}
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    image, _ = read_face(archive.files, "a", 16, "nearest")
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() < 12, "a chequerboard shrinks to grey, not to stripes"


def test_an_image_below_the_resolution_is_not_enlarged(archive_path: Path) -> None:
    with pytest.raises(ValueError, match=r"face 00003 .*32 x 32 .*lower the"):
        read_face(FaceArchive(archive_path).files, "00003", 64, "nearest")


def test_equal_faces_give_equal_bytes(archive_path: Path, tables: Path, tmp_path: Path) -> None:
    task = part_tasks(FaceArchive(archive_path), SPLITS, RESOLUTION, MASKS, tmp_path / "again")[0]
    (tmp_path / "again").mkdir()
    report = make_part(**task)
    assert (report.name, report.ids) == (part_name(0, 19), tuple(IDS[:20]))
    assert (tmp_path / "again" / report.name).read_bytes() == (tables / report.name).read_bytes()


def test_a_whole_part_is_kept(archive_path: Path, tables: Path) -> None:
    path = tables / part_name(0, 19)
    os.utime(path, (1, 1))
    make_part(**part_tasks(FaceArchive(archive_path), SPLITS, RESOLUTION, MASKS, tables)[0])
    assert path.stat().st_mtime == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    pq.write_table(pq.ParquetFile(path).read().slice(0, 19), path)


@pytest.mark.parametrize("damage", [truncate, flip, shorten])
def test_a_part_that_is_not_whole_is_made_again(
    archive_path: Path, tables: Path, damage: Callable[[Path], None]
) -> None:
    path = tables / part_name(0, 19)
    whole = path.read_bytes()
    damage(path)
    make_part(**part_tasks(FaceArchive(archive_path), SPLITS, RESOLUTION, MASKS, tables)[0])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [truncate, flip, shorten, Path.unlink])
def test_the_reader_refuses_what_is_not_whole(tables: Path, damage: Callable[[Path], None]) -> None:
    path = tables / part_name(0, 19)
    damage(path)
    with pytest.raises(ValueError, match=r"part-0000.*expected"):
        FaceTable(tables, None).batch(range(20))


def test_a_face_that_cannot_be_read_is_named_and_leaves_no_part(tmp_path: Path) -> None:
    members = archives.official(range(3), SIDE) | {archives.part_name(1, "nose"): b"broken"}
    path = archives.pack(tmp_path / "faces.zip", members)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match=r"00001_nose.png .*cannot be decoded"):
        files = FaceArchive(path).some(IDS[:3])
        make_part(files, IDS[:3], [SPLITS[id] for id in IDS[:3]], RESOLUTION, "nearest", out / part_name(0, 2))
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"scadm.labels", b'["skin", "background"]', "uses the labels .*expected"),
        (
            b"scadm.resolution",
            b"32",
            "resolution of .* is 32, expected 16|resolution of .* is 16, expected 32",
        ),
    ],
)
def test_tables_with_another_vocabulary_or_resolution_are_refused(
    tables: Path, key: bytes, value: bytes, message: str
) -> None:
    path = tables / part_name(0, 19)
    table: pa.Table = pq.ParquetFile(path).read()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), key: value}), path)
    with pytest.raises(ValueError, match=message):
        FaceTable(tables, None)


def test_a_folder_without_parts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no parts.*dvc repro"):
        FaceTable(tmp_path, None)


def test_lost_rows_are_listed(tmp_path: Path) -> None:
    require_rows(IDS, tuple(IDS), tmp_path)
    with pytest.raises(ValueError, match=r"40 faces went in and 38 came out \(lost: 00001, 00003; added: none\)"):
        require_rows(IDS, [id for id in IDS if id not in ("00001", "00003")], tmp_path)
    with pytest.raises(ValueError, match="expected the same in the same order"):
        require_rows(IDS, IDS[::-1], tmp_path)
