"""Checkpoints: which ones count."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from moto.server import ThreadedMotoServer
from safetensors.torch import load_file, save

from scadm import faces
from scadm.files import tensors
from scadm.files.checkpoint import (
    Store,
    checkpoint_name,
    complete_steps,
    copy_checkpoint,
    digest_of,
    is_complete,
    prune,
    read_checkpoint,
    write_checkpoint,
)
from scadm.files.manifest import FILE_NAME

TENSORS = {
    "model": {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor(1.5)},
    "optimiser": {"0.step": torch.tensor(7.0)},
}
CONFIG: dict[str, Any] = {"step": 7, "latent_mean": [0.5]}
FILES = ["model.safetensors", "optimiser.safetensors", "config.json", FILE_NAME]


def write(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / checkpoint_name(step)
    write_checkpoint(Store(str(folder)), TENSORS, CONFIG)
    return folder


@pytest.mark.parametrize("remote", [False, True])
def test_it_reads_back_as_written(tmp_path: Path, remote: bool) -> None:
    root = (tmp_path / "run").as_uri() if remote else str(tmp_path / "run")
    store = Store(root) / "final"
    write_checkpoint(store, TENSORS, CONFIG)
    assert is_complete(store)
    assert store.files() == sorted(FILES)
    tensors, config = read_checkpoint(store, ["model", "optimiser"])
    assert torch.equal(tensors["model"]["a.weight"], TENSORS["model"]["a.weight"])
    assert torch.equal(tensors["optimiser"]["0.step"], torch.tensor(7.0))
    assert config == CONFIG | {"labels": list(faces.LABELS)}
    assert read_checkpoint(store, ["model"])[0].keys() == {"model"}


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    plain = Store.write
    monkeypatch.setattr(Store, "write", lambda self, name, data: (order.append(name), plain(self, name, data)))
    write(tmp_path, 1)
    assert order[-1] == FILE_NAME
    assert sorted(order) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_with_a_missing_file_does_not_count(tmp_path: Path, name: str) -> None:
    write(tmp_path, 1)
    (write(tmp_path, 2) / name).unlink()
    assert complete_steps(Store(str(tmp_path))) == [1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5])
def test_one_with_a_truncated_file_does_not_count(tmp_path: Path, name: str, kept: float) -> None:
    path = write(tmp_path, 2) / name
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert complete_steps(Store(str(tmp_path))) == []


def test_none_at_all(tmp_path: Path) -> None:
    assert complete_steps(Store(str(tmp_path / "never"))) == []
    assert not is_complete(Store(str(tmp_path / "never")))
    with pytest.raises(ValueError, match=r"never is not a finished checkpoint: it has no manifest.json"):
        read_checkpoint(Store(str(tmp_path / "never")), ["model"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_that_keeps_the_size_is_found_on_reading(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 3)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    assert is_complete(Store(str(folder)))
    said = json.loads((folder / FILE_NAME).read_text())[name]["sha256"]
    with pytest.raises(ValueError, match=f"{name} has sha256 [0-9a-f]{{64}}, its manifest says {said}.*damaged"):
        read_checkpoint(Store(str(folder)), ["model"])


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    with pytest.raises(ValueError, match=r"expected also average.safetensors"):
        read_checkpoint(Store(str(folder)), ["average"])


def test_other_labels_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "c"))
    write_checkpoint(store, TENSORS, CONFIG | {"labels": ["skin"]})
    with pytest.raises(ValueError, match=r"config.json uses the labels \['skin'\]"):
        read_checkpoint(store, ["model"])


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    for step in (250, 500, 1000, 100_000_000):
        write(tmp_path, step)
    (write(tmp_path, 300) / FILE_NAME).unlink()  # left by a killed writer
    (write(tmp_path, 200_000_000) / FILE_NAME).unlink()  # being written
    prune(run, 2)
    assert complete_steps(run) == [1000, 100_000_000]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == sorted(map(checkpoint_name, (1000, 100_000_000, 200_000_000)))
    prune(run, 5)
    assert complete_steps(run) == [1000, 100_000_000]


def of_all_types() -> dict[str, torch.Tensor]:
    types = (torch.float32, torch.bool, torch.int64, torch.float16, torch.float64, torch.bfloat16, torch.int32)
    made = {f"a/{dtype}": (torch.arange(7) % 3).to(dtype) for dtype in (*types, torch.uint8)}
    weight = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    return made | {"ü": torch.tensor(1.0), "none": torch.empty(0, 3), "last": weight, "first": torch.rand(3, 5).T}


def test_the_files_are_the_library_s(tmp_path: Path) -> None:
    given = of_all_types()
    assert b"".join(tensors.pieces(given)) == save({name: tensor.contiguous() for name, tensor in given.items()})


_PEAKS = """
import sys, torch
from scadm.files.checkpoint import read_checkpoint, write_checkpoint
from scadm.files.store import Store


def memory(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))


def further(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = memory("VmRSS")
    result = work()
    return (memory("VmHWM") - before) / size, result


def weights():
    return {str(i): torch.rand(250, 250, 5, 5).to(memory_format=torch.channels_last) for i in range(4)}


groups, store = ["model", "average", "first moments", "second moments"], Store(sys.argv[1])
given = {name: weights() for name in groups}
size = sum(tensor.nbytes for group in given.values() for tensor in group.values())
write_checkpoint(store, {"warm": {"up": given["model"]["0"][:9]}}, {})  # what is loaded with the first use
print(further(lambda: write_checkpoint(store, given, {}))[0], further(lambda: read_checkpoint(store, groups))[0])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak of what follows")
def test_a_checkpoint_is_not_in_memory_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PEAKS, str(tmp_path / "final")]
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # tensors that are freed are not kept for later ones
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=returned).stdout
    write, read = map(float, said.split())
    assert write < 0.6, "multiples of the tensors' 100 MB, beside them"
    assert 0.9 < read < 1.6, "the tensors that are read among it"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"ENDPOINT_URL": f"http://{host}:{port}", "DEFAULT_REGION": "us-east-1", "ACCESS_KEY_ID": "test"}
    for name, value in (given | {"SECRET_ACCESS_KEY": "test"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3").create_bucket(Bucket="faces")
    yield "s3://faces"
    server.stop()


def test_in_a_store_at_an_address(bucket: str) -> None:
    groups = {"model": {"large": torch.rand(9_000_000), "small": torch.tensor(3.0)}, "average": of_all_types()}
    store = Store(f"{bucket}/runs/final")
    write_checkpoint(store, groups, CONFIG)
    assert is_complete(store)
    found, _ = read_checkpoint(store, ["model", "average"])
    for name, group in groups.items():
        assert all(torch.equal(found[name][key], tensor) for key, tensor in group.items())

    def breaks() -> Iterator[bytes]:
        yield bytes(100)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        store.write("cut", breaks())
    assert store.size("cut") is None, "whole or not at all"


def test_nothing_is_pickled(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            load_file(path)
        else:
            json.loads(path.read_text())


def test_a_digest_names_all_content(tmp_path: Path) -> None:
    first, same, other = (Store(str(tmp_path / name)) for name in "abc")
    write_checkpoint(first, TENSORS, CONFIG)
    write_checkpoint(same, TENSORS, CONFIG)
    changed = TENSORS["model"] | {"a.bias": torch.tensor(2.0)}
    write_checkpoint(other, TENSORS | {"model": changed}, CONFIG)
    assert digest_of(first) == digest_of(same) != digest_of(other)


@pytest.mark.parametrize("remote", [False, True])
def test_a_copy_is_the_same_and_its_manifest_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    source = Store(str(write(tmp_path, 3)))
    target = Store((tmp_path / "copy").as_uri() if remote else str(tmp_path / "copy"))
    order: list[str] = []
    plain = Store.write
    monkeypatch.setattr(Store, "write", lambda self, name, data: (order.append(name), plain(self, name, data)))
    copy_checkpoint(source, target)
    assert is_complete(target)
    assert digest_of(target) == digest_of(source)
    assert target.files() == source.files() == sorted(order)
    assert order[-1] == FILE_NAME
    assert torch.equal(read_checkpoint(target, ["model"])[0]["model"]["a.weight"], TENSORS["model"]["a.weight"])


def test_a_damaged_one_is_not_copied(tmp_path: Path) -> None:
    folder, target = write(tmp_path, 3), Store(str(tmp_path / "copy"))
    data = bytearray((folder / "optimiser.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "optimiser.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"optimiser\.safetensors has sha256 \w{64}, its manifest says .*damaged"):
        copy_checkpoint(Store(str(folder)), target)
    assert not is_complete(target)
    with pytest.raises(ValueError, match="not a finished checkpoint"):
        copy_checkpoint(Store(str(tmp_path / "never")), target)
