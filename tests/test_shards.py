"""Latent shards, their index, and how they are made from tables."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import webdataset
from toy_faces import ToyFaces

from scadm.config import LatentsConfig
from scadm.data.latents import ShardMaker, statistics
from scadm.data.shards import INDEX, MEMBERS, ShardReader, describe_shard, encode, write_index, write_shard
from scadm.data.tables import Face, part_name, write_part
from scadm.files.manifest import Split
from scadm.first_stage import load_first_stage
from scadm.pixels import to_signed


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, "train", map(encode, tiny.samples(3)))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    write_shard(tmp_path / "c.tar", "train", map(encode, tiny.samples(3, seed=1)))
    assert (tmp_path / "a.tar").read_bytes() != (tmp_path / "c.tar").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b.tar", "c.tar"]


def test_a_shard_appears_when_it_is_complete(tmp_path: Path) -> None:
    def broken():
        yield from map(encode, tiny.samples(2))
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match=r"killed"):
        write_shard(tmp_path / "train-000000-000002.tar", "train", broken())
    assert not (tmp_path / "train-000000-000002.tar").exists()


@pytest.mark.parametrize("remote", [False, True])
def test_samples_read_back_at_their_offsets(tmp_path: Path, remote: bool) -> None:
    rows = tiny.samples(7)
    folder = tiny.write_shards(tmp_path / "shards", {"train": rows, "test": tiny.samples(2, seed=1)}, per_shard=3)
    reader = ShardReader(folder.as_uri() if remote else str(folder), "train")
    assert len(reader) == 7
    for index in (6, 0, 3, 3):
        found, expected = reader[index], rows[index]
        assert found.id == expected.id
        assert found.latent.dtype == np.float16
        for array, other in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_array_equal(array, other)
    images, labels = reader.batch([4, 1])
    np.testing.assert_array_equal(images, [rows[4].image, rows[1].image])
    np.testing.assert_array_equal(labels, [rows[4].labels, rows[1].labels])


def test_the_index_holds_every_member(tmp_path: Path) -> None:
    folder = tiny.write_shards(tmp_path / "shards", {"train": tiny.samples(4)}, per_shard=2)
    tree = json.loads((folder / INDEX).read_text())
    assert tree["members"] == list(MEMBERS)
    assert [shard["name"] for shard in tree["shards"]] == ["train-000000-000001.tar", "train-000002-000003.tar"]
    data = (folder / "train-000000-000001.tar").read_bytes()
    key, *places = tree["shards"][0]["samples"][1]
    assert key == "0-0001"
    magic = [b"\x93NUMPY", b"RIFF", b"\x89PNG"]
    assert [data[offset : offset + len(start)] for (offset, _), start in zip(places, magic, strict=True)] == magic
    assert tree["latents"] == {"autoencoder": "0" * 64, "mean": [0.0] * 3, "std": [1.0] * 3}
    for shard in tree["shards"]:
        data = (folder / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    write_index(tmp_path / "again.json", map(describe_shard, sorted(folder.glob("*.tar"))), tiny.LATENTS)
    assert (tmp_path / "again.json").read_text() == (folder / INDEX).read_text()


def test_a_split_without_samples_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_shards(tmp_path / "shards", {"train": tiny.samples(1)})
    with pytest.raises(ValueError, match=r"lists no samples of split 'test'. Run `dvc repro latents`"):
        ShardReader(str(folder), "test")


def test_webdataset_reads_them(tmp_path: Path) -> None:
    rows = tiny.samples(3)
    folder = tiny.write_shards(tmp_path / "shards", {"train": rows})
    dataset = webdataset.WebDataset(str(folder / "train-000000-000002.tar"), shardshuffle=False).decode("rgb8")
    found = list(dataset)
    assert [sample["__key__"] for sample in found] == [row.id for row in rows]
    for sample, row in zip(found, rows, strict=True):
        np.testing.assert_array_equal(sample["latent.npy"], row.latent)
        np.testing.assert_array_equal(sample["image.webp"], row.image)
        np.testing.assert_array_equal(sample["mask.png"][..., 0], row.labels)
        assert sample["json"] == {"id": row.id, "split": "train"}


# --- from tables ----------------------------------------------------------------------------------------


def make(folder: Path, flip: bool, batch_size: int = 2) -> ShardMaker:
    """A maker over five training faces and one for validation, with a small autoencoder."""
    tables, work = folder / "tables", folder / "work"
    if not tables.exists():
        tables.mkdir()
        toys = ToyFaces(6, tiny.SIDE)
        splits: list[Split] = ["train", "train", "validation", "train", "train", "train"]
        rows = zip(splits, toys.images, toys.labels, strict=True)
        faces = [Face(f"face-{i}", split, image, labels) for i, (split, image, labels) in enumerate(rows)]
        write_part(tables / part_name(0, 5), faces, tiny.SIDE)
        tiny.write_autoencoder(folder / "autoencoder")
        work.mkdir()
    config = LatentsConfig(flip=flip, precision="fp32", samples_per_shard=5, batch_size=batch_size)
    return ShardMaker(str(tables), str(folder / "autoencoder"), str(work), config, use_gpu=False)


@pytest.mark.parametrize("flip", [False, True])
def test_latents_are_the_autoencoder_s_of_both_orientations(tmp_path: Path, flip: bool) -> None:
    report = make(tmp_path, flip)("train", 1, 4)
    assert report.shard.name == "train-000001-000003.tar"
    assert list(report.shard.samples) == ["face-1", "face-3", "face-4"]
    write_index(tmp_path / "work" / INDEX, [report.shard], tiny.LATENTS)
    reader = ShardReader(str(tmp_path / "work"), "train")
    encode = load_first_stage(tmp_path / "autoencoder").model.encode
    for index in range(3):
        sample = reader[index]
        images = [sample.image, sample.image[:, ::-1]][: 1 + flip]
        expected = encode(to_signed(np.stack(images)))
        assert sample.latent.shape == (1 + flip, 3, 4, 4)
        torch.testing.assert_close(torch.from_numpy(sample.latent).float(), expected, atol=2e-3, rtol=2e-3)
    # A mirrored latent is not the latent of the mirrored image.
    if flip:
        assert np.abs(sample.latent[0][..., ::-1] - sample.latent[1]).max() > 0.01


def test_a_finished_shard_is_kept_and_reported_alike(tmp_path: Path) -> None:
    first = make(tmp_path, True)("train", 0, 5)
    path = tmp_path / "work" / first.shard.name
    made = path.stat().st_mtime_ns
    again = make(tmp_path, True)("train", 0, 5)
    assert path.stat().st_mtime_ns == made
    assert again.shard == first.shard
    np.testing.assert_array_equal(again.sum, first.sum)


@pytest.mark.parametrize("left", [0, 700, 0.5, -10_000])
def test_a_shard_that_is_not_whole_is_made_again(tmp_path: Path, left: float) -> None:
    """As a machine that went down may leave it."""
    first = make(tmp_path, True)("train", 0, 5)
    path = tmp_path / "work" / first.shard.name
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if 0 < left < 1 else int(left)])
    assert make(tmp_path, True)("train", 0, 5).shard == first.shard
    assert path.read_bytes() == data


def test_a_shard_of_other_faces_is_made_again(tmp_path: Path) -> None:
    maker = make(tmp_path, True)
    first, other = maker("train", 0, 3), maker("train", 2, 5)
    path = tmp_path / "work" / first.shard.name
    path.write_bytes((tmp_path / "work" / other.shard.name).read_bytes())
    assert maker("train", 0, 3).shard == first.shard


def test_statistics_are_those_of_all_latents(tmp_path: Path) -> None:
    maker = make(tmp_path, True)
    reports = [maker("train", 0, 2), maker("train", 2, 5)]
    stored = []
    for report in reports:
        write_index(tmp_path / "work" / INDEX, [report.shard], tiny.LATENTS)
        reader = ShardReader(str(tmp_path / "work"), "train")
        stored += [reader[i].latent.astype(np.float64) for i in range(len(reader))]
    latents = np.concatenate(stored)
    assert len(latents) == 10
    mean, std = statistics(reports)
    np.testing.assert_allclose(mean, latents.mean((0, 2, 3)))
    np.testing.assert_allclose(std, latents.std((0, 2, 3)))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_latents_that_are_not_finite_are_refused_by_id(tmp_path: Path) -> None:
    maker = make(tmp_path, False)
    with torch.no_grad():
        for parameter in maker.autoencoder.parameters():  # type: ignore[attr-defined]
            parameter.mul_(1e6)
    with pytest.raises(ValueError, match=r"the latent of face face-0 is not finite in float16.*learning_rate"):
        maker("train", 0, 2)
    assert not list((tmp_path / "work").glob("*.tar"))
