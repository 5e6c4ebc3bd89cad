"""Further images for the autoencoder: how they are read, and that no held-out picture is among them."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import labelled, official, pack, unpack
from numpy.typing import NDArray
from PIL import Image
from projects import Project
from toy_faces import ToyFaces

from scadm.data import extra
from scadm.data.archive import FaceArchive
from scadm.data.duplicates import SAME, shown_again, signatures, similarity
from scadm.data.extra import ExtraFiles, read_extra
from scadm.data.parts import make_part, read_face
from scadm.data.tables import part_name
from scadm.files.manifest import Manifest, describe_files
from scadm.pixels import Images, JoinedImages

SIDE = 32


class Pictures:
    """Smooth pictures without any structure in common, an ImageSource."""

    def __init__(self, count: int, seed: int = 0, side: int = SIDE) -> None:
        coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
        size = (side, side)
        enlarged = [Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC) for picture in coarse]
        self.pixels: Images = np.stack([np.asarray(picture) for picture in enlarged])

    def __len__(self) -> int:
        return len(self.pixels)

    def image_batch(self, indices: list[int]) -> Images:
        return self.pixels[list(indices)]


def encoded(pixels: NDArray[np.uint8], form: str = "PNG", side: int | None = None, **options: int) -> bytes:
    picture = Image.fromarray(pixels)
    if side is not None:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


TEST_FACE = Pictures(1, seed=1, side=64).pixels[0]
HELD_OUT = Pictures(6, seed=2)
HELD_OUT.pixels[3] = np.asarray(Image.fromarray(TEST_FACE).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
OTHERS = Pictures(3, seed=3, side=64).pixels
MEMBERS = {
    "faces/anew.jpg": encoded(TEST_FACE, "JPEG", quality=30),
    "faces/larger.webp": encoded(TEST_FACE, "WEBP", side=96),
    "faces/mirrored.png": encoded(np.ascontiguousarray(TEST_FACE[:, ::-1])),
    "faces/grey.PNG": encoded(np.asarray(Image.fromarray(TEST_FACE).convert("L"))),
    "faces/toned.png": encoded((255 * (TEST_FACE / 255) ** 0.6).astype(np.uint8)),
    "another.jpeg": encoded(OTHERS[0], "JPEG", quality=90),
    "deeper/still/another.webp": encoded(OTHERS[1], "WEBP", side=40),
    "flat.png": encoded(np.full((64, 64, 3), 90, np.uint8)),
}
BESIDE = {"README.txt": b"of what is here", "__MACOSX/faces/._anew.jpg": b"\0\5\x16\7", ".DS_Store": b"\0"}
KEPT = ["another.jpeg", "deeper/still/another.webp", "flat.png"]


def given(tmp_path: Path, kind: str, members: dict[str, bytes]) -> Path:
    return pack(tmp_path / "more.zip", members) if kind == "zip" else unpack(tmp_path / "more", members)


# --- which pictures are the same ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_what_is_held_out_is_left_out_and_the_rest_is_read(tmp_path: Path, kind: str) -> None:
    images = read_extra(given(tmp_path, kind, MEMBERS | BESIDE), SIDE, [Pictures(4), HELD_OUT])
    assert images.left_out == tuple(sorted(MEMBERS.keys() - set(KEPT)))
    assert len(images) == len(KEPT)
    batch = images.image_batch([2, 0, 1])
    assert batch.shape == (3, SIDE, SIDE, 3) and batch.dtype == np.uint8
    assert (batch[0] == 90).all()
    for name, found in zip(KEPT[:2], batch[1:], strict=True):
        small = Image.open(io.BytesIO(MEMBERS[name])).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found, np.asarray(small))
    assert images.summary.startswith("3 extra images to train on; 5 more are left out, which show faces of the validat")
    assert images.summary.endswith(": faces/anew.jpg, faces/grey.PNG, faces/larger.webp and 2 more")


def test_every_other_picture_stays() -> None:
    every = [ToyFaces(5), Pictures(300, seed=4)]
    again = shown_again(Pictures(300, seed=5).pixels, every)
    assert again.shape == (300,) and not again.any()
    found = shown_again(every[1].image_batch(range(300)), every)  # type: ignore[arg-type]
    assert found.all(), "more pictures than are looked at at a time"


def test_flat_pictures_are_like_no_other() -> None:
    flat = np.full((2, SIDE, SIDE, 3), [[[[7]]], [[[200]]]], np.uint8)
    assert not signatures(flat).any()
    assert (similarity(flat, signatures(HELD_OUT.pixels)) == 0).all()
    assert (similarity(flat, signatures(flat)) == 0).all()


def test_a_signature_holds_mean_ranks_of_unit_length() -> None:
    grey = np.repeat(np.array([[10, 10, 60, 250]], np.uint8).repeat(4, axis=0), 3).reshape(1, 4, 4, 3)
    (found,) = signatures(grey.repeat(4, axis=1).repeat(4, axis=2))
    ranks = np.array([[64] * 8 + [128 + 32] * 4 + [192 + 32] * 4]).repeat(16, axis=0)  # 128, 64 and 64 cells
    centred = ranks - ranks.mean()
    np.testing.assert_allclose(found, centred / np.linalg.norm(centred), rtol=1e-5)
    assert np.linalg.norm(signatures(HELD_OUT.pixels).reshape(6, -1), axis=1) == pytest.approx(1)


# --- joined sources -------------------------------------------------------------------------------------


def test_joined_sources_follow_one_another() -> None:
    first, second, third = Pictures(3, seed=6), Pictures(2, seed=7), Pictures(4, seed=8)
    joined = JoinedImages(first, second, third)
    every = np.concatenate([first.pixels, second.pixels, third.pixels])
    assert len(joined) == 9
    for order in (range(9), [8, 0, 4, 4, 1, 3, 0, 7], [2], [5, 5]):
        np.testing.assert_array_equal(joined.image_batch(order), every[list(order)])
    with pytest.raises(IndexError):
        joined.image_batch([9])


def test_no_extra_images_change_nothing(tmp_path: Path) -> None:
    (tmp_path / ".gitkeep").touch()
    none = read_extra(tmp_path, SIDE, [HELD_OUT])
    assert (len(none), none.left_out, none.summary) == (0, (), "no extra images")
    np.testing.assert_array_equal(JoinedImages(HELD_OUT, none).image_batch([5, 0]), HELD_OUT.pixels[[5, 0]])


# --- what can be wrong ----------------------------------------------------------------------------------

WITHOUT = "conf/no_images to train without any"


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"b/torn.jpg": encoded(OTHERS[0], "JPEG")[:300]}, r"b/torn\.jpg in .*more.*extra_images\) cannot be decoded"),
        ({"text.png": b"not a picture"}, r"text\.png in .* cannot be decoded"),
        ({"wide.png": encoded(OTHERS[0][:40])}, r"wide\.png in .* has 64 x 40 pixels, expected a square"),
        ({"small.png": encoded(OTHERS[0], side=31)}, r"small\.png in .* 31 x 31 pixels, expected at least .* 32"),
    ],
)
def test_a_picture_that_cannot_be_learned_is_named(
    tmp_path: Path, kind: str, members: dict[str, bytes], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_extra(given(tmp_path, kind, MEMBERS | members), SIDE, [HELD_OUT])


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        (BESIDE, f"has no image among its 3 files, expected names that end in .jpg.*{WITHOUT}"),
        (labelled(["a", "b"]), r"has 2 masks among its 4 images \(labels/a.png, labels/b.png\)"),
        (official([7]), r"has 2 masks among its 3 images \(CelebAMask-HQ/"),
    ],
)
def test_a_source_without_faces_is_refused(tmp_path: Path, kind: str, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtraFiles(given(tmp_path, kind, members))


def test_a_source_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"nowhere.zip does not exist, expected a zip or a folder.*{WITHOUT}"):
        ExtraFiles(tmp_path / "nowhere.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"empty has no image among its 0 files.*{WITHOUT}"):
        ExtraFiles(tmp_path / "empty")
    whole = pack(tmp_path / "more.zip", MEMBERS).read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[:-300])
    with pytest.raises(ValueError, match=r"torn.zip \(\d+ bytes\) cannot be opened as a zip"):
        ExtraFiles(tmp_path / "torn.zip")
    with zipfile.ZipFile(tmp_path / "more.zip") as archive:
        start = archive.getinfo("another.jpeg").header_offset
    (tmp_path / "flipped.zip").write_bytes(
        whole[: start + 200] + bytes([whole[start + 200] ^ 1]) + whole[start + 201 :]
    )
    with pytest.raises(ValueError, match=r"another.jpeg in .*flipped.zip .* is damaged \(Bad CRC"):
        read_extra(tmp_path / "flipped.zip", SIDE, [HELD_OUT])


def test_more_than_fits_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "MEMORY", len(MEMBERS) * SIDE * SIDE * 3 - 1)
    with (
        ExtraFiles(pack(tmp_path / "more.zip", MEMBERS)) as files,
        pytest.raises(ValueError, match=r"has 8 images, which take 0\.0 GB at 32 pixels, expected at most"),
    ):
        files.decode(SIDE)


# --- the stage ------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The smoke profile with a table of 12 faces, made without Ray: what the stage `autoencoder` starts from."""
    ids = [f"face{number}" for number in range(12)]
    archive = FaceArchive(pack(tmp_path / "faces.zip", labelled(ids, side=SIDE)))
    project = Project.clone(tmp_path / "project", changes={"project.resolution": SIDE, "autoencoder.training.steps": 3})
    tables = project.folder / "data" / "onehot"
    tables.mkdir(parents=True)
    splits = [*["train"] * 8, *["validation"] * 2, *["test"] * 2]
    part = make_part(archive.files, ids, splits, SIDE, "nearest", tables / part_name(0, 11))
    Manifest(stage="masks", resolution=SIDE, files=describe_files(tables, [part.name])).write(tables)
    return project


@pytest.mark.slow
def test_the_stage_trains_on_extra_images(project: Project) -> None:
    def trained() -> Manifest:
        project.run("dvc", "repro", "--single-item", "autoencoder")
        return Manifest.read(project.folder / "models/autoencoder")

    def more(**members: bytes) -> None:
        pack(project.folder / "more.zip", {f"{name}.png": data for name, data in members.items()})

    none = trained()
    assert none.counts == {"extra_images": 0, "extra_left_out": 0}
    with zipfile.ZipFile(project.folder.parent / "faces.zip") as archive:
        faces = [Image.open(io.BytesIO(archive.read(f"images/face{number}.jpg"))) for number in (0, 9, 11)]
    trained_on, validation, test = (encoded(np.asarray(face)) for face in faces)
    more(a=trained_on, b=validation, c=test, d=encoded(OTHERS[0]))
    project.set({"autoencoder.extra_images": "more.zip"})
    some = trained()
    assert some.counts == {"extra_images": 2, "extra_left_out": 2}
    assert set(some.inputs) == {"data/onehot", "more.zip"}
    assert some.autoencoder != none.autoencoder

    more(d=encoded(OTHERS[1]))
    assert trained().counts == {"extra_images": 1, "extra_left_out": 0}, "DVC sees another content under the same path"
    (project.folder / "more.zip").unlink()
    refused = project.run("python", "-m", "pipeline.autoencoder", check=False)
    assert refused.returncode == 1 and WITHOUT in refused.stdout and "Traceback" not in refused.stdout


# --- real faces -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pictures_that_two_real_archives_share(shared: Path) -> None:
    """27 of 1,000 images, with nothing between them and the others: how `SAME` was chosen."""
    masked, unlabelled = (shared / "data" / name for name in ("celebamask-hq-mini.zip", "celeba-hq-unlabelled.zip"))
    for path in (masked, unlabelled):
        if not path.is_file():
            pytest.skip(f"needs {path}, real images of CelebA-HQ")
    archive = FaceArchive(masked)
    faces = np.stack([read_face(archive.files, id, 64, "nearest")[0] for id in archive.select()])
    with ExtraFiles(unlabelled) as files:
        images = files.decode(64)
    found = np.sort(similarity(images, signatures(faces)))
    assert (found >= SAME).sum() == 27
    assert found[-27] > 0.97 and found[-28] < 0.92
