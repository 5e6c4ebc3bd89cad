"""`scadm verify` and `scadm gc`."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from scadm import profiles
from scadm.app import cli, storage
from scadm.checkpoint import write_checkpoint
from scadm.manifest import Manifest, describe_files
from scadm.store import Store

ROOT = Path(__file__).resolve().parents[1]
DAY = 86_400


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An out, two runs with a checkpoint each, unfinished work, a download, a cached shard; all of them a week old."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(profiles.render("smoke", ROOT / "conf"))
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/archive.zip").write_bytes(b"faces")
    Manifest(stage="download", files=describe_files(folder / "data/raw", ["archive.zip"])).write(folder / "data/raw")
    for run in ("aaaa", "bbbb"):
        for name in ("final", "checkpoints/step-00000010"):
            place = Store(str(folder / f"storage/runs/{run}/{name}"))
            write_checkpoint(place, {"weights": {"w": torch.ones(100)}}, {"step": 10})
    (folder / "models").mkdir()
    (folder / "models/train.json").write_text(json.dumps({"run_key": "bbbb"}))
    (folder / ".work/masks-1234").mkdir(parents=True)
    (folder / ".work/masks-1234/part").write_bytes(b"0" * 1000)
    (folder / "downloads").mkdir()
    (folder / "downloads/faces.zip").write_bytes(b"faces")
    entry = describe_files(folder / "data/raw", ["archive.zip"])["archive.zip"]
    record = {"sha256": entry.sha256, "bytes": 5, "address": "file:///faces.zip"}
    (folder / "downloads/faces.zip.json").write_text(json.dumps(record))
    cache = tmp_path / "cache/0123"
    cache.mkdir(parents=True)
    (cache / "a.tar").write_bytes(b"0" * 500)
    monkeypatch.setattr(storage, "default_folder", lambda: tmp_path / "cache")
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 7 * DAY,) * 2)
    monkeypatch.chdir(folder)
    return folder


def scadm(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, list(arguments))
    return done.exit_code, done.output


def test_all_is_whole(project: Path) -> None:
    code, shown = scadm("verify")
    assert code == 0
    assert [line.split(maxsplit=1) for line in shown.splitlines()] == [
        ["ok", "data/raw"],
        *(["ok", f"runs/{run}/{name}"] for run in ("aaaa", "bbbb") for name in ("final", "checkpoints/step-00000010")),
        ["ok", "downloads/faces.zip"],
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/raw/archive.zip", "data/raw"),
        ("storage/runs/aaaa/final/weights.safetensors", "runs/aaaa/final"),
        ("downloads/faces.zip", "downloads/faces.zip"),
    ],
)
def test_a_changed_byte_is_found_and_named(project: Path, path: str, name: str) -> None:
    data = bytearray((project / path).read_bytes())
    data[-1] ^= 1
    (project / path).write_bytes(data)
    code, shown = scadm("verify")
    assert code == 1
    (fault,) = [line for line in shown.splitlines() if line.startswith("fault")]
    assert fault.split(maxsplit=1)[1].startswith(f"{name}: ") and "sha256" in fault
    assert "1 fault(s)." in shown


def test_a_lost_file_is_found(project: Path) -> None:
    (project / "storage/runs/bbbb/checkpoints/step-00000010/config.json").unlink()
    code, shown = scadm("verify")
    assert code == 1 and "fault  runs/bbbb/checkpoints/step-00000010: " in shown


def test_what_is_kept_is_listed_and_nothing_deleted(project: Path) -> None:
    before = sorted(project.rglob("*"))
    code, shown = scadm("gc")
    assert code == 0
    for text in ("masks-1234", "runs/aaaa", "downloads/faces.zip", "cache/0123", "7.0 days"):
        assert text in shown
    assert "runs/bbbb  (the run of models/train.json)" in shown
    assert sorted(project.rglob("*")) == before


def test_only_what_is_named_is_freed(project: Path) -> None:
    code, shown = scadm("gc", "--free", "work", "--free", "runs")
    assert code == 0 and "MB freed." in shown
    assert not (project / ".work/masks-1234").exists() and not (project / "storage/runs/aaaa").exists()
    assert (project / "storage/runs/bbbb/final").is_dir(), "it is in use"
    assert (project / "downloads/faces.zip").is_file()


def test_a_freed_download_s_hash_is_still_known(project: Path) -> None:
    scadm("gc", "--free", "downloads")
    assert [path.name for path in (project / "downloads").iterdir()] == ["faces.zip.json"]


def test_what_is_younger_stays(project: Path) -> None:
    assert "masks-1234" not in scadm("gc", "--free", "work", "--older", "8")[1]
    assert (project / ".work/masks-1234").is_dir()
    os.utime(project / ".work/masks-1234/part")
    assert "(written to within the hour)" in scadm("gc", "--free", "work")[1]
    assert (project / ".work/masks-1234").is_dir()


def test_an_unknown_kind_is_refused(project: Path) -> None:
    done = CliRunner().invoke(cli.app, ["gc", "--free", "everything"])
    assert "--free everything, expected work, runs, downloads, shards" in str(done.exception)
