"""The package facer itself, with stand-ins for its network, and the sides of real faces.

FaRL's genuine weights (180 MB) are not at hand here, so none of this shows what they answer. Their convention is that
of FaRL's training code, which the stand-ins follow; where the weights are used, the stage `parser` holds them against
the masks of training faces (`require_sides`).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scadm import faces
from scadm.data.archive import FaceArchive
from scadm.data.parts import read_face
from scadm.evaluation.parsers import FACER_NAMES, FacerParser, load_parser, require_sides
from scadm.pixels import Images, Labels

needs_facer = pytest.mark.skipif(
    importlib.util.find_spec("facer") is None, reason="needs the package facer (pip install '.[faces]')"
)

# FaRL's classes, as its training code numbers the official files: background, then these from 1.
TRAINED = (
    *("background", "neck", "skin", "cloth", "l_ear", "r_ear", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "mouth"),
    *("l_lip", "u_lip", "hair", "eye_g", "hat", "ear_r", "neck_l"),
)


class ByColour(nn.Module):
    """A network that knows classes by their colours: the nearest one is its answer, at half the size."""

    def __init__(self, colours: Tensor) -> None:
        super().__init__()
        self.register_buffer("colours", colours)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        assert image.shape[1:] == (3, 448, 448)
        assert image.dtype == torch.float32 and float(image.min()) >= 0 and float(image.max()) <= 1
        small = image[:, :, ::2, ::2]
        logits = -(small[:, None] - self.colours[None, :, :, None, None]).abs().sum(dim=2)  # (n, 19, h, w)
        return logits, small


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    colours = torch.tensor(faces.PALETTE[[faces.CLASS_ID[name] for name in TRAINED]]) / 255
    torch.jit.script(ByColour(colours)).save(tmp_path / "facer.pt")
    assert (tmp_path / "facer.pt").stat().st_size < 20_000
    return tmp_path / "facer.pt"


def quarters() -> Labels:
    """Label maps (5, 64, 64), in which each class but one has a quarter of some picture."""
    labels = np.zeros((5, 64, 64), dtype=np.uint8)
    for k in range(18):
        top, left = 32 * (k // 2 % 2), 32 * (k % 2)
        labels[k // 4, top : top + 32, left : left + 32] = k + 1
    return labels


def inside(labels: Labels) -> np.ndarray:
    """Pixels two away from any edge between classes, where resizing mixes no colours."""
    same = np.ones(labels.shape, dtype=bool)
    for shift in (-2, -1, 1, 2):
        for axis in (1, 2):
            same &= np.roll(labels, shift, axis) == labels
    return same


@needs_facer
def test_facer_s_own_code_reads_every_class(weights: Path, tmp_path: Path) -> None:
    parser = FacerParser(weights)
    assert parser.parser.label_names == list(FACER_NAMES), "facer's own names, in its own order"
    labels = quarters()
    images = faces.PALETTE[labels]
    reading = parser.read(images)
    assert np.array_equal(reading.labels[inside(labels)], labels[inside(labels)])
    assert set(np.unique(reading.labels)) == set(range(19))
    assert reading.labels.dtype == np.uint8 and reading.features.shape == (5, 19)
    single = np.concatenate([parser.parse(images[i : i + 1]) for i in range(5)])
    assert np.array_equal(single, reading.labels)
    folder = tmp_path / "saved"
    folder.mkdir()
    parser.save(folder)
    assert np.array_equal(load_parser(folder).parse(images), reading.labels)


@needs_facer
@pytest.mark.parametrize("side", [48, 448, 600])
@pytest.mark.parametrize("value", [0, 1, 255])
def test_facer_s_code_takes_pictures_of_one_value_at_any_size(weights: Path, value: int, side: int) -> None:
    """A black batch or a nearly black one is where it would guess wrongly how pixels are meant."""
    labels = FacerParser(weights).parse(np.full((2, side, side, 3), value, dtype=np.uint8))
    assert labels.shape == (2, side, side) and len(np.unique(labels)) == 1


@pytest.fixture(scope="module")
def real(shared: Path) -> tuple[Images, Labels]:
    """40 real faces (40, 128, 128, 3) that show both eyes, and their masks."""
    path = shared / "data" / "celebamask-hq-mini.zip"
    if not path.is_file():
        pytest.skip(f"needs {path}, a sample of CelebAMask-HQ in the official layout")
    archive = FaceArchive(path)
    ids = archive.select()[:60]
    files = archive.some(ids)
    both = [read_face(files, id, 128, "nearest") for id in ids]
    eyes = {faces.CLASS_ID["l_eye"], faces.CLASS_ID["r_eye"]}
    chosen = [pair for pair in both if eyes <= set(np.unique(pair[1]))][:40]
    assert len(chosen) == 40
    return np.stack([image for image, _ in chosen]), np.stack([labels for _, labels in chosen])


def columns(labels: Labels, name: str) -> np.ndarray:
    """Mean column of a class in each face, as a share of the width; NaN where it is not shown."""
    shown = labels == faces.CLASS_ID[name]
    with np.errstate(invalid="ignore"):
        return (shown * np.arange(labels.shape[2])).sum(axis=(1, 2)) / shown.sum(axis=(1, 2)) / labels.shape[2]


PARTS = ("eye", "brow", "ear")


@pytest.mark.parametrize("part", PARTS)
def test_the_person_s_left_is_at_the_right_of_a_real_picture(real: tuple[Images, Labels], part: str) -> None:
    gap = columns(real[1], f"l_{part}") - columns(real[1], f"r_{part}")
    shown = ~np.isnan(gap)
    assert shown.sum() > 5 and (gap[shown] > 0).all()


@needs_facer
def test_facer_s_sides_are_those_of_real_masks(real: tuple[Images, Labels], weights: Path) -> None:
    labels = real[1]
    images = faces.PALETTE[labels]  # what the stand-in knows
    parser = FacerParser(weights)
    require_sides(parser, images, labels)
    found = parser.parse(images)
    for part in PARTS:
        gap = columns(found, f"l_{part}") - columns(found, f"r_{part}")
        assert (gap[~np.isnan(gap)] > 0).mean() > 0.9
    assert (found == labels)[inside(labels)].mean() > 0.99


@needs_facer
def test_masks_of_other_sides_are_noticed(real: tuple[Images, Labels], weights: Path) -> None:
    images, mirrored = faces.PALETTE[real[1]], faces.MIRROR[real[1]].astype(np.uint8)
    with pytest.raises(ValueError, match=r"farl-celebm-448 agrees with the masks in .*sides exchanged"):
        require_sides(FacerParser(weights), images, mirrored)
