"""Remote shards, through a real S3 server on this machine, and the cache that a machine keeps of them."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest
import tiny
from moto.server import ThreadedMotoServer

from scadm.data import shard_cache
from scadm.data.shards import INDEX, ShardReader

ROWS = tiny.samples(11)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's name; the cache lies in tmp_path / cache."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")  # what moto accepts: anything
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(shard_cache, "default_folder", lambda: tmp_path / "cache")
    name = f"faces-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


def upload(folder: Path, bucket: str, name: str = "shards") -> str:
    for path in folder.iterdir():
        boto3.client("s3").upload_file(str(path), bucket, f"{name}/{path.name}")
    return f"s3://{bucket}/{name}"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tiny.write_shards(tmp_path / "shards", {"train": ROWS}, per_shard=4)


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name[17:] for path in (tmp_path / "cache").glob("*/*.tar"))


def test_remote_samples_are_the_local_ones(shards: Path, bucket: str, tmp_path: Path) -> None:
    local, remote = ShardReader(str(shards), "train"), ShardReader(upload(shards, bucket), "train")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(remote.__getitem__, range(len(ROWS))))
    for i, sample in enumerate(found):
        for array, other in zip(sample[1:], local[i][1:], strict=True):
            np.testing.assert_array_equal(array, other)
    assert cached(tmp_path) == sorted(path.name for path in shards.glob("*.tar"))


def test_a_shard_is_fetched_once_a_machine(shards: Path, bucket: str, tmp_path: Path) -> None:
    root = upload(shards, bucket)
    assert ShardReader(root, "train")[0].id == ROWS[0].id
    boto3.client("s3").delete_object(Bucket=bucket, Key="shards/train-000000-000003.tar")
    assert ShardReader(root, "train")[3].id == ROWS[3].id, "from the cache"


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_used_for_longest(
    shards: Path, bucket: str, tmp_path: Path
) -> None:
    root = upload(shards, bucket)
    names = sorted(path.name for path in shards.glob("*.tar"))
    size = max((shards / name).stat().st_size for name in names)
    reader = ShardReader(root, "train", cache_bytes=2 * size)
    assert [reader[i].id for i in (0, 4)] == [ROWS[0].id, ROWS[4].id]
    for path, age in zip(
        sorted((tmp_path / "cache").glob("*/*.tar"), key=lambda path: path.name[17:]), (1, 2), strict=True
    ):
        os.utime(path, (age, age))
    assert reader[8].id == ROWS[8].id
    assert cached(tmp_path) == names[1:]
    assert reader[1].id == ROWS[1].id, "fetched again"
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.tar")) <= 2 * size


def test_the_limit_holds_for_all_folders_together_and_counts_what_is_being_fetched(
    shards: Path, bucket: str, tmp_path: Path
) -> None:
    root, size = upload(shards, bucket), 3 * max(path.stat().st_size for path in shards.glob("*.tar"))
    assert ShardReader(root, "train", cache_bytes=size)[0].id == ROWS[0].id
    (other,) = (tmp_path / "cache").glob("*/")
    for name, age in (("abandoned", 7200), ("fetched", 0)):
        part = other / f".{name}.part"
        part.write_bytes(bytes(size // 2))
        os.utime(part, (time.time() - age,) * 2)
    again = tiny.write_shards(tmp_path / "again", {"train": ROWS[:4]})
    assert ShardReader(upload(again, bucket, "others"), "train", cache_bytes=size)[0].id == ROWS[0].id
    assert not (other / ".abandoned.part").exists() and (other / ".fetched.part").exists()


def test_no_shard_stays_open(shards: Path, bucket: str) -> None:
    reader = ShardReader(upload(shards, bucket), "train")
    every = [reader[index].id for index in range(len(ROWS))]
    assert every == [row.id for row in ROWS]
    assert not [target for target in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if ".tar" in str(target)]


def test_a_copy_that_was_cut_off_is_fetched_again(shards: Path, bucket: str, tmp_path: Path) -> None:
    reader = ShardReader(upload(shards, bucket), "train")
    assert reader[0].id == ROWS[0].id
    (copy,) = (tmp_path / "cache").glob("*/*.tar")
    copy.write_bytes(copy.read_bytes()[:600])
    assert reader[1].id == ROWS[1].id
    assert copy.stat().st_size == (shards / copy.name[17:]).stat().st_size


def test_a_cache_of_another_user_is_refused(
    shards: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(upload(shards, bucket), "train")
    monkeypatch.setattr(shard_cache.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(ValueError, match=r"belongs to another user"):
        reader[0]


@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_shard_is_named(shards: Path, bucket: str, remote: bool) -> None:
    (shards / "train-000004-000007.tar").unlink()
    reader = ShardReader(upload(shards, bucket) if remote else str(shards), "train")
    assert reader[0].id == ROWS[0].id
    with pytest.raises(ValueError, match=re.escape("shards/train-000004-000007.tar is missing, the index lists it")):
        reader[4]


@pytest.mark.parametrize("remote", [False, True])
def test_a_truncated_shard_is_named(shards: Path, bucket: str, remote: bool) -> None:
    path = shards / "train-000004-000007.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-512])
    reader = ShardReader(upload(shards, bucket) if remote else str(shards), "train")
    message = f"train-000004-000007.tar has {size - 512} bytes, the index says {size}"
    with pytest.raises(ValueError, match=message):
        reader[4]


def test_a_shard_that_was_changed_since_is_named(shards: Path, bucket: str, tmp_path: Path) -> None:
    path = shards / "train-000004-000007.tar"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    reader = ShardReader(upload(shards, bucket), "train")
    with pytest.raises(ValueError, match=r"train-000004-000007.tar has sha256 .*, the index says .*changed since"):
        reader[4]
    assert cached(tmp_path) == []


def test_a_folder_without_an_index_is_no_shards(shards: Path, bucket: str) -> None:
    (shards / INDEX).unlink()
    with pytest.raises(ValueError, match=r"has no index.json"):
        ShardReader(upload(shards, bucket), "train")


def test_what_does_not_fit_the_disk_is_named(
    shards: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(upload(shards, bucket), "train")
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(ValueError, match=r"does not fit on the disk of .*TMPDIR"):
        reader[0]
