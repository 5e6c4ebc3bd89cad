"""The data stages on real faces of CelebAMask-HQ, where a sample of the archive is at hand."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import Project

from scadm.data.shards import ShardReader
from scadm.data.tables import FaceTable
from scadm.faces import LABELS
from scadm.files.manifest import Manifest

pytestmark = pytest.mark.slow


def test_real_faces_become_tables_and_shards(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "celebamask-hq-mini.zip"
    if not archive.is_file():
        pytest.skip(f"needs {archive}, a sample of CelebAMask-HQ in the official layout")
    with zipfile.ZipFile(archive) as real:
        faces = sorted(int(Path(name).stem) for name in real.namelist() if name.endswith(".jpg"))
        known_bad = [f"{number:05d}" for number in faces[120:]]  # as many as a test has time for
    project = Project.clone(
        tmp_path / "project",
        changes={"data.source": "celebamask-hq", "data.path": str(archive), "data.known_bad": known_bad},
    )
    project.run("dvc", "repro", "inspect", "latents")
    splits = Manifest.read(project.folder / "data/shards").splits
    assert sum(len(ids) for ids in splits.values()) == 120
    readers = [ShardReader(str(project.folder / "data/shards"), split) for split in splits]
    assert sum(len(reader) for reader in readers) == 120, "as many samples as faces"
    assert (project.folder / "reports/data.html").is_file()

    table = FaceTable(project.folder / "data/onehot", None)
    assert len(table) == 120
    _, labels = table.batch(range(len(table)))
    with zipfile.ZipFile(archive) as real:
        members = set(real.namelist())
        for id, merged in zip(table.ids, labels, strict=True):
            assert np.array_equal(merged, _merge(real, members, int(id))), f"face {id}"


def _merge(archive: zipfile.ZipFile, members: set[str], number: int) -> np.ndarray:
    """The label map by another way: each part painted onto a canvas, in the official order, then made smaller."""
    canvas = Image.new("L", (512, 512), 0)
    for k, part in enumerate(LABELS[1:], start=1):
        name = f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/{number // 2000}/{number:05d}_{part}.png"
        if name in members:
            with archive.open(name) as file:
                stencil = Image.open(file).convert("L").point(lambda value: 255 if value else 0)
            canvas.paste(k, mask=stencil)
    return np.asarray(canvas.resize((64, 64), Image.Resampling.NEAREST))
