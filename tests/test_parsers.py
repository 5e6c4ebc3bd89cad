"""Face parsers behind their interface: saved, loaded, and read in the official order."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy_faces import ToyFaces

from scadm import faces
from scadm.config import ParserConfig
from scadm.evaluation.parsers import (
    FACER_NAMES,
    WEIGHTS_NAME,
    FacerParser,
    SmallParser,
    TorchScriptParser,
    load_parser,
    official_order,
    require_sides,
)
from scadm.models.parser import FaceParser


@pytest.fixture
def small() -> SmallParser:
    torch.manual_seed(0)
    return SmallParser(FaceParser(ParserConfig(channels=4, multipliers=(1, 2))), resolution=32)


class ByRed(nn.Module):
    """The red channel says the class: red 10 k is class k. Half the size, as many networks answer."""

    def forward(self, image: Tensor) -> Tensor:
        red = image[:, :1, ::2, ::2] * 255 / 10
        return -(red - torch.arange(19.0, device=image.device)[None, :, None, None]).abs()


class ByRedInFacersOrder(nn.Module):
    """The same, with classes in another order, and with a second answer, as facer's networks have."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.by_red = ByRed()
        self.order = order

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.by_red(image)
        return logits[:, self.order], logits


def painted() -> tuple[np.ndarray, np.ndarray]:
    """Images whose red channel tells the class, and those classes; three bands each."""
    labels = np.zeros((7, 32, 32), dtype=np.uint8)
    for i in range(7):
        for band in range(3):
            labels[i, 12 * band :] = min(3 * i + band, 18)
    images = np.zeros((7, 32, 32, 3), dtype=np.uint8)
    images[..., 0] = 10 * labels
    return images, labels


def test_small_parser_survives_a_round_trip(small: SmallParser, tmp_path: Path) -> None:
    small.save(tmp_path)
    again = load_parser(tmp_path)
    images, _ = ToyFaces(3).batch(range(3))
    assert isinstance(again, SmallParser)
    assert (again.name, again.fingerprint) == ("small-32", small.fingerprint)
    assert np.array_equal(again.parse(images), small.parse(images))
    assert np.array_equal(again.features(images), small.features(images))
    assert again.parse(images).dtype == np.uint8
    assert again.features(images).shape == (3, 8)


def test_small_parser_refuses_what_does_not_fit(small: SmallParser, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="64 x 64, expected 32 x 32"):
        small.parse(np.zeros((1, 64, 64, 3), dtype=np.uint8))
    small.save(tmp_path)
    weights = load_file(tmp_path / WEIGHTS_NAME)

    weights["head.0.bias"] += 1
    save_file(weights, tmp_path / WEIGHTS_NAME)
    with pytest.raises(ValueError, match="the fingerprint of"):
        load_parser(tmp_path)

    del weights["head.0.bias"]
    save_file(weights, tmp_path / WEIGHTS_NAME)
    with pytest.raises(ValueError, match=r"does not fit config.json.*head\.0\.bias"):
        load_parser(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("labels", list(reversed(faces.LABELS)), "uses the labels"), ("kind", "big", "'big'")],
)
def test_a_foreign_configuration_is_refused(
    small: SmallParser, tmp_path: Path, key: str, value: object, message: str
) -> None:
    small.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=message):
        load_parser(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dvc repro parser"):
        load_parser(tmp_path)


def test_torchscript_parser(tmp_path: Path) -> None:
    torch.jit.script(ByRed()).save(tmp_path / "net.pt")
    parser = TorchScriptParser(tmp_path / "net.pt")
    images, labels = painted()
    assert np.array_equal(parser.parse(images), labels)
    assert parser.features(images).shape == (7, 19)
    folder = tmp_path / "saved"
    folder.mkdir()
    parser.save(folder)
    (tmp_path / "net.pt").unlink()
    again = load_parser(folder)
    assert again.name == parser.name
    assert parser.name.startswith("torchscript-")
    assert np.array_equal(again.parse(images), labels)


def test_torchscript_parser_refuses_other_files_and_answers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.pt do not exist"):
        TorchScriptParser(tmp_path / "net.pt")
    (tmp_path / "net.pt").write_bytes(b"weights")
    with pytest.raises(ValueError, match="is not a TorchScript file"):
        TorchScriptParser(tmp_path / "net.pt")
    torch.jit.script(nn.Conv2d(3, 11, 1)).save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"returned \(7, 11, 32, 32\), expected one tensor"):
        TorchScriptParser(tmp_path / "net.pt").parse(painted()[0])


def test_reading_does_not_depend_on_the_batching(small: SmallParser) -> None:
    images, _ = ToyFaces(5).batch(range(5))
    whole = small.read(images)
    parts = [small.read(images[i : i + 1]) for i in range(5)]
    assert np.array_equal(whole.labels, np.concatenate([part.labels for part in parts]))
    np.testing.assert_allclose(whole.features, np.concatenate([part.features for part in parts]), rtol=1e-5, atol=1e-6)


@given(st.permutations(list(FACER_NAMES)))
def test_facers_classes_are_mapped_by_name(names: list[str]) -> None:
    order = official_order(names)
    assert [FACER_NAMES[names[i]] for i in order] == list(faces.LABELS)
    assert np.array_equal(np.argsort(order)[order], np.arange(faces.NUM_CLASSES)), "not a permutation"


def test_facers_sides_are_the_official_ones() -> None:
    for theirs, ours in {
        "rr": "l_ear",  # at the right of the picture, as are FaRL's training masks of this class
        "le": "r_eye",
        "rb": "l_brow",
        "llip": "l_lip",
        "face": "skin",
    }.items():
        assert FACER_NAMES[theirs] == ours


def test_other_classes_than_facers_are_refused() -> None:
    with pytest.raises(ValueError, match="farl/celebm/448"):
        official_order(["background", "face", "rb"])


def test_facer_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facer", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[faces\]'"):
        FacerParser(None)


def test_a_parser_whose_sides_are_exchanged_is_refused(tmp_path: Path) -> None:
    images, labels = painted()
    torch.jit.script(ByRed()).save(tmp_path / "net.pt")
    parser = TorchScriptParser(tmp_path / "net.pt")
    require_sides(parser, images, labels)
    require_sides(parser, np.zeros_like(images), labels)  # it finds nothing of them, on no side
    with pytest.raises(ValueError, match=r"torchscript-\w{8} agrees with the masks in 0 of \d{4} pixels of eyes.*left"):
        require_sides(parser, images, faces.MIRROR[labels].astype(np.uint8))


def test_facers_logits_reach_the_official_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through a stand-in for the package: a scripted network that answers in facer's order, at 448 pixels."""
    names = list(FACER_NAMES)
    network = torch.jit.script(ByRedInFacersOrder([faces.CLASS_ID[FACER_NAMES[name]] for name in names]))
    network.save(tmp_path / "facer.pt")

    class StandIn:
        label_names = names

        def __init__(self, path: str) -> None:
            self.network = torch.jit.load(path)

        def forward_warped(self, images: Tensor, return_preds: bool) -> Tensor:
            assert images.shape[1:] == (3, 448, 448)
            assert 0 <= images.min() <= images.max() <= 1
            assert not return_preds
            return self.network(images)[0]

    def face_parser(name: str, device: torch.device, model_path: str) -> StandIn:
        assert name == "farl/celebm/448"
        return StandIn(model_path)

    module = types.ModuleType("facer")
    module.face_parser = face_parser  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "facer", module)

    parser = FacerParser(tmp_path / "facer.pt")
    folder = tmp_path / "saved"
    folder.mkdir()
    parser.save(folder)
    images, labels = painted()
    found = load_parser(folder).parse(images)
    inside = np.ones(32, dtype=bool)
    inside[[11, 12, 23, 24]] = False  # the bands' edges are blurred by the resizing
    assert np.array_equal(found[:, inside], labels[:, inside])
