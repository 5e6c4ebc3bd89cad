"""What a user can get wrong ends in one clear message, exit status 1, and no half-written out."""

from pathlib import Path

import numpy as np
import pytest
from archives import band, columns, labelled, official, pack, part_name, png, unpack
from projects import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("bad") / "project", changes={"project.resolution": 16})


def refused(project: Project, *stages: str) -> str:
    """Run stages of which the last must fail; returns its message."""
    for stage in stages[:-1]:
        project.run("python", "-m", f"pipeline.{stage}")
    done = project.run("python", "-m", f"pipeline.{stages[-1]}", check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.count("error in stage") == 1
    return done.stdout[done.stdout.index("error in stage") :]


@pytest.fixture(autouse=True)
def clean(project: Project) -> None:
    project.run("rm", "-rf", "data", "reports", ".work")
    project.set({"data.source": "celebamask-hq", "model.style_encoder.downsamplings": 3})


def source(project: Project, path: Path, kind: str = "celebamask-hq") -> None:
    project.set({"data.source": kind, "data.path": str(path)})


def test_a_truncated_archive(project: Project, tmp_path: Path) -> None:
    whole = pack(tmp_path / "faces.zip", official(range(20)))
    whole.write_bytes(whole.read_bytes()[:-500])
    source(project, whole)
    message = refused(project, "download")
    assert "faces.zip" in message
    assert not (project.folder / "data").exists()


def test_an_image_without_masks(project: Project, tmp_path: Path) -> None:
    members = official(range(20))
    members = {name: data for name, data in members.items() if "00007_" not in name}
    source(project, pack(tmp_path / "faces.zip", members))
    message = refused(project, "download")
    assert "00007" in message
    assert not (project.folder / "data").exists()


def test_a_mask_of_another_size(project: Project, tmp_path: Path) -> None:
    members = official(range(20)) | {part_name(7, "hair"): png(band(0, 4, 12))}
    source(project, pack(tmp_path / "faces.zip", members))
    message = refused(project, "download", "masks")
    assert "12" in message and "16" in message and "00007" in message
    assert not (project.folder / "data/onehot").exists()


def test_label_ids_above_18(project: Project, tmp_path: Path) -> None:
    members = labelled([f"face{i}" for i in range(20)]) | {"labels/face7.png": png(columns() + np.uint8(3))}
    source(project, unpack(tmp_path / "mine", members), "folder")
    message = refused(project, "download")
    assert "face7" in message and "18" in message
    assert not (project.folder / "data").exists()


def test_an_unknown_key(project: Project) -> None:
    path = project.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("learning_rate:", "learning_rat:", 1))
    try:
        message = refused(project, "download")
    finally:
        path.write_text(before)
    assert "unknown key autoencoder.training.learning_rat" in message


def test_a_full_disk(project: Project, tmp_path: Path) -> None:
    source(project, pack(tmp_path / "faces.zip", official(range(40))))
    done = project.run("bash", "-c", "ulimit -f 20; python -m pipeline.download", check=False)
    assert done.returncode == 1, done.stdout
    assert "no space left" in done.stdout and "Traceback" not in done.stdout
    assert not (project.folder / "data").exists()
    project.run("python", "-m", "pipeline.download")  # with space, the same command goes on


def test_an_archive_that_is_not_there(project: Project, tmp_path: Path) -> None:
    source(project, tmp_path / "nowhere.zip")
    assert "nowhere.zip" in refused(project, "download")


def test_a_shard_that_was_changed(project: Project, tmp_path: Path) -> None:
    source(project, pack(tmp_path / "faces.zip", official(range(20))))
    project.run("python", "-m", "pipeline.download")
    archive = project.folder / "data/raw/archive.zip"
    data = bytearray(archive.read_bytes())
    data[1000] ^= 1
    archive.write_bytes(data)
    message = refused(project, "masks")
    assert "sha256" in message and "archive.zip" in message
