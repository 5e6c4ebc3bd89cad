"""Fixtures that several test files use."""

import os
import runpy
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from projects import Project

GUARD = Path(__file__).parent / "guard"

# Only loopback is ever contacted: here, and (projects.py) in every process that a test starts.
runpy.run_path(str(GUARD / "sitecustomize.py"))


LONGEST = (
    "test_resume",
    "test_real_faces",
    "test_absent_parts",
    "test_extra_images",
    "test_run_logger",
    "test_training",
    "test_condition_once",
    "test_import_checkpoint",
    "test_bare_training",
    "test_pipeline",
)
"""Files of long tests, in the order in which they start: those that need `finished` come when the first has made it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none of several processes is left with one while the others have ended."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that is not part of the project; without it the test is skipped."""
    named = os.environ.get("SCADM_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder} of real faces (or SCADM_SHARED naming one), which is not there")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """Key names of the published networks, and inputs and outputs of small ones whose weights follow a rule."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The profile `smoke`, run once by `dvc repro`, whichever of pytest's workers asks first.

    A test that changes it works on a copy.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            project = Project.clone(folder / "project")
            project.run("dvc", "repro")
            project.commit()
            (folder / "done").touch()
    return Project(folder / "project")
