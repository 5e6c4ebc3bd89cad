"""Pictures that something else made, scored on the same faces."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from scadm.config import ParserConfig
from scadm.data.shards import ShardReader
from scadm.evaluation import rivals
from scadm.evaluation.networks import Networks
from scadm.evaluation.parsers import SmallParser
from scadm.evaluation.scores import Judges
from scadm.models.parser import FaceParser
from scadm.report.comparisons import Comparisons, Rival, require_name

SAMPLES = tiny.samples(5)
IDS = [sample.id for sample in SAMPLES][:4]


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    return ShardReader(str(tiny.write_shards(tmp_path / "shards", {"test": SAMPLES})), "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of the first four faces, larger than these, in two formats, and something else beside them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, sample in enumerate(SAMPLES[:4]):
        picture = Image.fromarray(255 - sample.image).resize((32, 32), Image.Resampling.NEAREST)
        picture.save(folder / f"{sample.id}.{'png' if i else 'webp'}")
    (folder / "README.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    network = FaceParser(ParserConfig(channels=4, multipliers=(1, 2)))
    return Judges(SmallParser(network, resolution=tiny.SIDE), Networks(None, None))


def test_they_have_the_measures_of_our_own_rows(judges: Judges, reader: ShardReader, folder: Path) -> None:
    found = rivals.score(judges, reader, folder, IDS)
    assert list(found)[:4] == ["ssim", "psnr", "miou", "accuracy"] and "frechet_small-16" in found
    for sample in SAMPLES[:4]:  # now the real ones, with a touch, as equal ones would have no PSNR
        image = sample.image.copy()
        image[0, 0] ^= 1
        Image.fromarray(image).save(folder / f"{sample.id}.png")
        (folder / f"{sample.id}.webp").unlink(missing_ok=True)
    better = rivals.score(judges, reader, folder, IDS)
    assert found["ssim"].value < 0.5 < 0.99 < better["ssim"].value


def test_a_missing_or_doubled_picture_is_named(reader: ShardReader, folder: Path) -> None:
    (folder / f"{IDS[1]}.png").rename(folder / f"{IDS[2]}.jpg")
    with pytest.raises(ValueError, match=rf"1 of the 4 test faces \({IDS[1]}\) and has several of 1 \({IDS[2]}\)"):
        rivals.find(folder, IDS)
    with pytest.raises(ValueError, match="is not a folder"):
        rivals.find(folder / "none", IDS)


@pytest.mark.parametrize(("size", "said"), [((20, 24), "expected a square"), ((8, 8), "at least 16 on each side")])
def test_a_picture_of_another_shape_is_refused(folder: Path, size: tuple[int, int], said: str) -> None:
    Image.new("RGB", size).save(folder / "other.png")
    with pytest.raises(ValueError, match=said):
        rivals.read(folder / "other.png", tiny.SIDE)


@pytest.mark.parametrize("name", ["model", "quoted", "", "a/b", "../up"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Choose another --name"):
        require_name(name)
    require_name("SEAN 2.0")


def test_scores_are_kept_and_read_again(judges: Judges, reader: ShardReader, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "quoted.json").write_text("{}")
    rival = Rival("SEAN", "toys", tiny.SIDE, "0" * 64, "small-16", rivals.score(judges, reader, folder, IDS))
    rival.write(tmp_path)
    assert Comparisons.read(tmp_path) == Comparisons({}, None, [rival])
    (tmp_path / "notes.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"notes.json is not a rival's scores"):
        Comparisons.read(tmp_path)
