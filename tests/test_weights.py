"""Weights on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scadm import faces
from scadm.files.weights import CONFIG, WEIGHTS, fingerprint, load_into, load_state, read_config, save_module


def test_a_module_comes_back_as_it_was(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    mark = save_module(tmp_path, module, {"width": 3})
    assert read_config(tmp_path) == ({"width": 3}, mark)
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_into(other, tmp_path / WEIGHTS)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, WEIGHTS])
    assert load_file(tmp_path / WEIGHTS).keys() == module.state_dict().keys()


def test_a_misfit_is_named() -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 4), "scale": torch.ones(1)}
    with pytest.raises(ValueError) as refused:
        load_state(module, state, "some/file")
    message = str(refused.value)
    for part in ("some/file", "missing ['bias']", "not expected ['scale']", "weight (3, 4), expected (3, 2)"):
        assert part in message


def test_other_labels_are_refused(tmp_path: Path) -> None:
    save_module(tmp_path, nn.Linear(1, 1), {})
    tree = json.loads((tmp_path / CONFIG).read_text())
    assert tree["labels"] == list(faces.LABELS)
    tree["labels"][0] = "backdrop"
    (tmp_path / CONFIG).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"config.json uses the labels \['backdrop'"):
        read_config(tmp_path)


def test_a_fingerprint_depends_on_everything() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "empty": torch.zeros(0), "n": torch.tensor(3)}
    mark = fingerprint({"x": 1}, state)
    assert mark == fingerprint({"x": 1}, dict(reversed(state.items())))
    others = [
        ({"x": 2}, state),
        ({"x": 1}, state | {"a": state["a"] + 1}),
        ({"x": 1}, state | {"a": state["a"].reshape(3, 2)}),
        ({"x": 1}, state | {"a": state["a"].double()}),
        ({"x": 1}, {"b" if name == "a" else name: tensor for name, tensor in state.items()}),
        ({"x": 1}, {"a": state["a"]}),
    ]
    assert mark not in {fingerprint(config, other) for config, other in others}
    strided = torch.arange(6.0).reshape(3, 2).T.contiguous().T
    assert fingerprint({}, {"a": strided}) == fingerprint({}, {"a": strided.contiguous()})
