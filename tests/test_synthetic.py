"""Synthetic faces: the same for the same seed, exact in their masks, honest in their factors."""

import hashlib
import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from scadm.data.synthetic import draw_face, sample_factors, write_archive, write_factors
from scadm.data.synthetic.face import MIN_SIZE, sketch_face
from scadm.data.synthetic.factors import colour_of
from scadm.faces import CLASS_ID, LABELS

COUNT = 400


@pytest.fixture(scope="module")
def label_maps() -> list[NDArray[np.uint8]]:
    return [sketch_face(3, index).masks(64)[0] for index in range(COUNT)]


def test_the_same_seed_and_index_give_the_same_face() -> None:
    first, again = draw_face(5, 8, 64), draw_face(5, 8, 64)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert first.factors == again.factors


@pytest.mark.parametrize(("seed", "index"), [(5, 9), (6, 8)])
def test_another_seed_or_index_gives_another_face(seed: int, index: int) -> None:
    assert sample_factors(seed, index) != sample_factors(5, 8)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_shapes_and_ranges(size: int) -> None:
    face = draw_face(0, 0, size)
    assert face.image.shape == (size, size, 3) and face.image.dtype == np.uint8
    assert face.labels.shape == (size, size) and face.labels.dtype == np.uint8
    assert all(mask.shape == (size, size) and mask.dtype == np.bool_ for mask in face.parts.values())


def test_factors_have_the_same_names_and_types_for_every_face() -> None:
    kinds = {name: type(value) for name, value in sample_factors(0, 0).items()}
    assert set(kinds.values()) == {float, str, bool}
    for index in range(1, 50):
        assert {name: type(value) for name, value in sample_factors(0, index).items()} == kinds


def test_every_class_has_a_colour_in_range() -> None:
    factors = sample_factors(0, 1)
    for part in LABELS:
        assert ((colour_of(factors, part) >= 0) & (colour_of(factors, part) <= 1)).all()


def test_a_face_is_the_same_at_every_size() -> None:
    agreement = []
    for index in range(20):
        small, large = sketch_face(1, index).masks(64)[0], sketch_face(1, index).masks(128)[0]
        agreement.append(np.mean(large[::2, ::2] == small))
    assert min(agreement) >= 0.9


def test_merging_the_parts_in_the_official_order_gives_the_labels() -> None:
    for index in range(60):
        labels, parts = sketch_face(2, index).masks(64)
        merged = np.zeros_like(labels)
        for name in LABELS:
            if name in parts:
                merged[parts[name]] = CLASS_ID[name]
        assert np.array_equal(merged, labels)
        assert set(np.unique(labels)) == {CLASS_ID[name] for name in parts}


def test_every_class_appears_as_often_as_people_wear_it(label_maps: list[NDArray[np.uint8]]) -> None:
    seen: Counter[str] = Counter(LABELS[i] for labels in label_maps for i in np.unique(labels))
    expected = {
        **dict.fromkeys(("background", "skin", "nose", "u_lip", "l_lip"), (1.0, 1.0)),
        **dict.fromkeys(("l_eye", "r_eye", "l_brow", "r_brow", "hair", "neck", "cloth"), (0.85, 1.0)),
        **dict.fromkeys(("l_ear", "r_ear"), (0.35, 0.75)),
        "mouth": (0.3, 0.5),
        "ear_r": (0.12, 0.28),
        **dict.fromkeys(("eye_g", "neck_l"), (0.05, 0.16)),
        "hat": (0.04, 0.13),
    }
    assert set(expected) == set(LABELS)
    for part, (low, high) in expected.items():
        assert low <= seen[part] / COUNT <= high, f"{part} is in {seen[part]} of {COUNT} faces"


def test_the_large_parts_have_the_shares_of_a_portrait(label_maps: list[NDArray[np.uint8]]) -> None:
    share = np.bincount(np.concatenate([labels.ravel() for labels in label_maps])) / (COUNT * 64 * 64)
    for part, low, high in (
        ("background", 0.35, 0.65),
        ("skin", 0.12, 0.35),
        ("hair", 0.1, 0.35),
        ("cloth", 0.05, 0.25),
    ):
        assert low <= share[CLASS_ID[part]] <= high, f"{part} covers {share[CLASS_ID[part]]:.3f}"


def test_left_parts_lie_on_the_right_of_the_picture(label_maps: list[NDArray[np.uint8]]) -> None:
    for left, right in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
        for labels in label_maps:
            lefts, rights = (np.nonzero(labels == CLASS_ID[part])[1] for part in (left, right))
            if len(lefts) and len(rights):
                assert lefts.mean() > rights.mean() + 5


@pytest.mark.parametrize(("part", "tolerance"), [("hair", 0.16), ("skin", 0.1), ("cloth", 0.1), ("background", 0.06)])
def test_a_part_is_painted_in_the_colour_that_its_factors_name(part: str, tolerance: float) -> None:
    errors = []
    for index in range(60):
        face = draw_face(4, index, 64)
        if part == "hair" and face.factors["hat.present"]:
            continue  # it lies in the hat's shadow
        mask = face.labels == CLASS_ID[part]
        if mask.sum() >= 40:
            errors.append(np.abs(face.image[mask].mean(axis=0) / 255 - colour_of(face.factors, part)).max())
    assert max(errors) <= tolerance and np.mean(errors) <= 0.04


def test_archive_has_the_official_layout(tmp_path: Path) -> None:
    path = tmp_path / "faces.zip"
    finished: list[int] = []
    write_archive(path, seed=0, count=40, image_size=128, progress=finished.append)
    assert finished == list(range(1, 41))
    assert list(tmp_path.iterdir()) == [path]
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        for index in (0, 17, 39):
            face = draw_face(0, index, 64)
            picture = Image.open(io.BytesIO(archive.read(f"CelebAMask-HQ/CelebA-HQ-img/{index}.jpg")))
            assert picture.size == (128, 128) and picture.mode == "RGB"
            for part in LABELS:
                name = f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/{index:05d}_{part}.png"
                assert (name in names) == (part in face.parts and part != "background")
                if name in names:
                    mask = np.array(Image.open(io.BytesIO(archive.read(name))))
                    assert np.array_equal(mask, face.parts[part] * 255)
        table = [
            line.split() for line in archive.read("CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt").decode().splitlines()
        ]
    places = [int(row[1]) for row in table]
    assert [int(row[0]) for row in table] == list(range(40))
    assert [row[2] for row in table] == [f"{place + 1:06d}.jpg" for place in places]
    assert len(set(places)) == 40 and min(places) >= 0 and max(places) < 202599
    splits = Counter("train" if p < 162770 else "validation" if p < 182637 else "test" for p in places)
    assert splits["train"] >= 28 and splits["validation"] >= 2 and splits["test"] >= 2


def test_a_longer_archive_begins_with_the_shorter_one(tmp_path: Path) -> None:
    digests = []
    for name, count in (("a.zip", 3), ("b.zip", 3), ("c.zip", 5)):
        write_archive(tmp_path / name, seed=7, count=count, image_size=64)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    with zipfile.ZipFile(tmp_path / "a.zip") as short, zipfile.ZipFile(tmp_path / "c.zip") as long:
        for name in short.namelist():
            assert long.read(name).startswith(short.read(name))


def test_a_failed_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(finished: int) -> None:
        raise RuntimeError(f"stopped after {finished}")

    with pytest.raises(RuntimeError, match="stopped after 1"):
        write_archive(tmp_path / "faces.zip", seed=0, count=3, image_size=64, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_factors_are_a_table_with_a_row_a_face(tmp_path: Path) -> None:
    path = tmp_path / "factors.parquet"
    write_factors(path, seed=9, count=6)
    rows = pq.read_table(path).to_pylist()
    assert [row.pop("id") for row in rows] == list(range(6))
    assert rows == [sample_factors(9, index) for index in range(6)]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("count", [0, -1, 202600])
def test_a_count_out_of_range_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} synthetic faces"):
        write_archive(tmp_path / "faces.zip", seed=0, count=count, image_size=64)
    with pytest.raises(ValueError, match=f"{count} synthetic faces"):
        write_factors(tmp_path / "factors.parquet", seed=0, count=count)


def test_a_size_too_small_or_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match=f"expected {MIN_SIZE} or more"):
        draw_face(0, 0, MIN_SIZE - 1)
    with pytest.raises(ValueError, match="seed -1 and index 0"):
        draw_face(-1, 0, 64)
    with pytest.raises(ValueError, match="seed 0 and index -2"):
        draw_face(0, -2, 64)
