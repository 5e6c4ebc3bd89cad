"""Opening checkpoints of others: the tensors come out, and nothing that is pickled beside them runs."""

import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict, UserDict
from datetime import timedelta
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, _utils, nn

from scadm.lightning import read_state_dict

TENSORS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "b.transposed": torch.arange(6.0).reshape(2, 3).T,
    "b.count": torch.tensor(7),
    "b.brain": torch.ones(2, dtype=torch.bfloat16),
    "b.flags": torch.tensor([True, False]),
    "b.bytes": torch.arange(3, dtype=torch.uint8),
}


class Runs:
    """Unpickled as it asks, it makes the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class Builds:
    """Likewise, by the state that it is given."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["path"]).touch()


class Options(dict[str, Any]):
    """A dict with a class of its own, as hyper-parameters come."""


class Items(list[Any]):
    pass


class Mode(Enum):
    MAX = "max"


class Callback(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def beside(path: Path) -> dict[str, Any]:
    """What Lightning and its users keep beside the weights, and what an attacker would."""
    return {
        "runs": Runs(path),
        "in": {"a": [Runs(path), (Builds(path), {"b": Runs(path)})]},
        "hyper_parameters": Options(lr=1e-4, nested=Options(path=PurePosixPath("x"))),
        "namespace": Namespace(a=1),
        "items": Items([1, Runs(path)]),
        "user": UserDict(a=1),
        "sets": [{1, 2}, frozenset({"a"}), {Fraction(1, 2)}],
        "numpy": [np.float64(0.5), np.int64(3), np.arange(3), np.dtype("float32")],
        "time": timedelta(seconds=1),
        "mode": Mode.MAX,
        "function": partial(os.getcwd),
        "bound": Path("x").touch,
        "module": Callback(),
        "class": Runs,
        "text": "a",
        "none": None,
    }


def require_tensors(found: dict[str, Tensor]) -> None:
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
        assert found[name].device.type == "cpu"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_runs_that_is_pickled_beside_the_weights(tmp_path: Path, zipped: bool, protocol: int) -> None:
    file, ran = tmp_path / "model.ckpt", tmp_path / "ran"
    # First what would run, so that the weights come after it.
    tree = {**beside(ran), "state_dict": OrderedDict(TENSORS), "again": beside(ran), "epoch": 235}
    torch.save(tree, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    require_tensors(read_state_dict(file))
    assert not ran.exists()
    # The test itself can fail: the same file, opened as it asks to be.
    torch.load(file, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_nor_in_a_fresh_process_that_knows_none_of_the_classes(tmp_path: Path, zipped: bool) -> None:
    file, ran = tmp_path / "model.ckpt", tmp_path / "ran"
    torch.save({"state_dict": TENSORS, **beside(ran)}, file, _use_new_zipfile_serialization=zipped)
    program = "import pathlib, sys, scadm.lightning as l; print(len(l.read_state_dict(pathlib.Path(sys.argv[1]))))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program, file], cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{len(TENSORS)}\n", "")
    assert not ran.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("foreign", [True, False])
def test_parameters_come_out_as_their_values(tmp_path: Path, zipped: bool, foreign: bool) -> None:
    shared = nn.Parameter(torch.rand(3))
    state = {"a": nn.Parameter(TENSORS["a.weight"]), "b": shared, "c": shared}
    tree = {"state_dict": state, **({"time": timedelta(seconds=1), "mode": Mode.MAX} if foreign else {})}
    torch.save(tree, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    found = read_state_dict(tmp_path / "m.pt")
    assert found.keys() == {"a", "b", "c"}
    assert torch.equal(found["a"], TENSORS["a.weight"])
    assert torch.equal(found["b"], shared) and torch.equal(found["c"], shared)


@pytest.mark.parametrize("foreign", [True, False])
def test_a_state_dict_by_itself(tmp_path: Path, foreign: bool) -> None:
    extra = {"version": Fraction(1, 2), 3: torch.zeros(1)} if foreign else {}
    torch.save(TENSORS | extra, tmp_path / "m.pt")
    require_tensors(read_state_dict(tmp_path / "m.pt"))


def test_safetensors(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "m.safetensors")
    require_tensors(read_state_dict(tmp_path / "m.safetensors"))


def test_attributes_of_what_rebuilds_a_tensor_cannot_be_changed(tmp_path: Path) -> None:
    """A state that a pickle sets on a function would stay for whoever uses it next."""
    torch.save({"state_dict": TENSORS}, tmp_path / "m.ckpt")
    name = _utils._rebuild_tensor_v2.__name__
    # By hand: GLOBAL _utils._rebuild_tensor_v2, then BUILD with (None, {'__name__': 'poisoned'}).
    body = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__name__X\x08\x00\x00\x00poisoneds\x86b."
    with pytest.raises(ValueError, match="cannot be read"):
        _with_pickle(tmp_path / "m.ckpt", body)
        read_state_dict(tmp_path / "m.ckpt")
    assert _utils._rebuild_tensor_v2.__name__ == name
    pickle.loads(body)
    assert _utils._rebuild_tensor_v2.__name__ == "poisoned", "the check itself can fail"
    _utils._rebuild_tensor_v2.__name__ = name


def _with_pickle(file: Path, body: bytes) -> None:
    """A zip of torch's with another pickle in it."""
    with zipfile.ZipFile(file) as before:
        members = {info.filename: before.read(info) for info in before.infolist()}
    with zipfile.ZipFile(file, "w") as after:
        for name, data in members.items():
            after.writestr(name, body if name.endswith("data.pkl") else data)


# --- what is refused ------------------------------------------------------------------------------------


def cut(file: Path, kept: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    file = tmp_path / f"m.{'safetensors' if kind == 'safetensors' else 'ckpt'}"
    if kind == "safetensors":
        save_file({"a": torch.rand(100)}, file)
    else:
        torch.save({"state_dict": {"a": torch.rand(100)}}, file, _use_new_zipfile_serialization=kind == "zip")
    cut(file, kept)
    with pytest.raises(ValueError, match=r"m\.\w+ cannot be read as a checkpoint: \w+: .*download it again"):
        read_state_dict(file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "sca-dm.ckpt"
    file.write_text("<!DOCTYPE html><html><body>Google Drive: too many users have viewed this file</body></html>")
    with pytest.raises(ValueError, match=r"sca-dm\.ckpt cannot be read as a checkpoint.*Expected a file of Lightning"):
        read_state_dict(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_state_dict(file)
    with tarfile.open(file, "w"):
        pass
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_state_dict(file)
    torch.jit.script(nn.Linear(2, 2)).save(str(file))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_state_dict(file)
    with pytest.raises(ValueError, match=r"none\.ckpt does not exist, expected a checkpoint file"):
        read_state_dict(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="is a folder, expected a checkpoint file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"state_dict": {}},
        {"state_dict": None},
        {"state_dict": [torch.zeros(1)]},
        {"state_dict": Options(a=torch.zeros(1))},
        {"state_dict": {"a": 1.0, 2: torch.zeros(1)}},
        [torch.zeros(1)],
        torch.zeros(1),
        3,
        Mode.MAX,
    ],
    ids=str,
)
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, tree: Any) -> None:
    torch.save(tree, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match=r"m\.ckpt holds no named tensors, expected a state dict, by itself or under"):
        read_state_dict(tmp_path / "m.ckpt")
