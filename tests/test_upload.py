"""What a Ray job gets of the project's folder."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from scadm.cluster import upload

ROOT = Path(__file__).resolve().parents[1]
CODE = ("scadm", "pipeline", "conf")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with this project's code and ignore files, and much that a job does not need."""
    folder = tmp_path / "project"
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name)
    for name in (".gitignore", ".rayignore", "params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in (
        *("data/raw/archive.zip", "models/parser/w.safetensors", "storage/runs/a/final", ".git/index", ".dvc/config"),
        *("faces.zip", "my faces/1.png", "vq-f4/model.bin", "notebook.ipynb", ".env", ".venv/bin/python", "tests/t.py"),
        *("scadm/__pycache__/x.pyc", ".work/latents/part", "benchmarks/b.py", "mlruns/m", "dvc.lock", "shared.json"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x" * 1000)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in upload.packed(folder))


def test_it_is_code_parameters_and_lists_alone(project: Path) -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", *CODE],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    there = [name for name in tracked if (ROOT / name).is_file()]
    assert names(project) == sorted([*there, "params.yaml", "dvc.yaml", "dvc.lock", "shared.json"])


def test_it_is_what_ray_packs(project: Path, tmp_path: Path) -> None:
    (project / "scadm" / "link.py").symlink_to(project / "scadm" / "stage.py")
    (project / "scadm" / "empty").mkdir()
    excludes = get_runtime_env_default_excludes()
    assert get_uri_for_directory(str(project), include_gitignore=True, excludes=excludes).startswith("gcs://_ray_pkg_")
    create_package(str(project), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        infos = [info for info in package.infolist() if not info.is_dir()]
        assert sorted(info.filename for info in infos) == names(project)
        assert sum(info.file_size for info in infos) == sum(file.bytes for file in upload.packed(project))


def test_a_linked_environment_is_left_out_too(project: Path) -> None:
    before = names(project)
    shutil.rmtree(project / ".venv")
    (project / ".venv").symlink_to("/usr/bin")
    (project / "elsewhere").symlink_to("/usr/bin")
    assert names(project) == before


def test_its_size_is_said_and_too_much_is_refused_by_name(project: Path) -> None:
    assert upload.require_small(upload.packed(project)).endswith(" MB")
    big = project / "scadm" / "weights.bin"
    with big.open("wb") as file:
        os.truncate(file.fileno(), upload.MOST_BYTES)
    with pytest.raises(ValueError, match=r"20\.\d MB .*at most 20 MB.*scadm/weights\.bin \(20\.0 MB\).*\.rayignore"):
        upload.require_small(upload.packed(project))


def test_code_that_would_be_missing_is_refused(project: Path) -> None:
    upload.require_complete(upload.packed(project), ["scadm/diffusion", "pipeline/train.py", "params.yaml"])
    with (project / ".rayignore").open("a") as file:
        file.write("/scadm/diffusion\n")
    with pytest.raises(ValueError, match="scadm/diffusion would not be uploaded"):
        upload.require_complete(upload.packed(project), ["scadm/diffusion", "pipeline/train.py"])
