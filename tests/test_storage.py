"""`scadm verify` and `scadm gc`."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from projects import Project
from typer.testing import CliRunner

from scadm import profiles
from scadm.app import cli, storage
from scadm.files.checkpoint import digest_of, write_checkpoint
from scadm.files.manifest import Manifest, describe_files
from scadm.files.store import Store
from scadm.stage import work_lock

ROOT = Path(__file__).resolve().parents[1]
DAY = 86_400
PART = "vq-f4.zip-01234567.part"
WHOLE = [
    *("data/raw", "data/onehot", "weights of models/train.json"),
    *("runs/aaaa/final", "runs/aaaa/checkpoints/step-00000010"),
    *("runs/bbbb/final", "runs/bbbb/checkpoints/step-00000010"),
    *("runs/cccc/checkpoints/step-00000010", "imports/dddd/final", "initial/eeee", "imports/dddd/autoencoder"),
    "downloads/faces.zip",
]
"""What is looked at: not the unfinished download, of which nothing is recorded."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is kept, a week old.

    Two outs, two finished runs and one that was killed, an import, unfinished work, a download and one that broke off,
    a cached shard.
    """
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(profiles.render("smoke", ROOT / "conf"))
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/archive.zip").write_bytes(b"faces")
    raw = Manifest(stage="download", files=describe_files(folder / "data/raw", ["archive.zip"]))
    raw.write(folder / "data/raw")
    Manifest(stage="masks", inputs={"data/raw": raw.digest}).write(folder / "data/onehot")
    for name in (name for name in WHOLE if name.startswith(("runs", "imports/dddd/final", "initial"))):
        place = Store(str(folder / "storage" / name))
        write_checkpoint(place, {"weights": {"w": torch.ones(100)}}, {"step": 10})
    tiny.write_autoencoder(folder / "storage/imports/dddd/autoencoder")
    (folder / "models").mkdir()
    digest = digest_of(Store(str(folder / "storage/runs/bbbb/final")))
    trained = {"run_key": "bbbb", "weights": "runs/bbbb/final", "sha256": digest}
    (folder / "models/train.json").write_text(json.dumps(trained))
    (folder / ".work/masks-1234").mkdir(parents=True)
    (folder / ".work/masks-1234/part").write_bytes(b"0" * 1000)
    (folder / "downloads").mkdir()
    (folder / "downloads/faces.zip").write_bytes(b"faces")
    entry = describe_files(folder / "data/raw", ["archive.zip"])["archive.zip"]
    record = {"sha256": entry.sha256, "bytes": 5, "address": "file:///faces.zip"}
    (folder / "downloads/faces.zip.json").write_text(json.dumps(record))
    (folder / f"downloads/{PART}").write_bytes(b"0" * 700)
    (folder / f"downloads/{PART}.json").write_text("{}")
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
    assert [line.split(maxsplit=1) for line in shown.splitlines()] == [["ok", name] for name in WHOLE]


def test_what_is_recorded_but_not_there_is_called_absent(project: Path) -> None:
    text = (project / "models/train.json").read_bytes()
    (project / "reports").mkdir()
    (project / "reports/metrics.json").write_text('{"ssim": 0.75}')
    outs = [
        {"path": "models/train.json", "hash": "md5", "md5": hashlib.md5(text).hexdigest()},
        {"path": "reports/metrics.json", "hash": "md5", "md5": hashlib.md5(b'{"ssim": 0.75}').hexdigest()},
        {"path": "data/shards", "hash": "md5", "md5": "0.dir"},
    ]
    (project / "dvc.lock").write_text(json.dumps({"stages": {"train": {"outs": outs}}}))
    shutil.rmtree(project / "storage/runs/bbbb/final")
    code, shown = scadm("verify")
    absent = [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("absent")]
    assert code == 0 and len(absent) == 2
    assert absent[0].startswith("data/shards: dvc.lock lists it")
    assert absent[1].startswith("weights of models/train.json: they are not in")
    (project / "reports/metrics.json").write_text('{"ssim": 0.85}')
    assert "md5" in faults("reports/metrics.json")


@pytest.mark.slow
def test_reports_are_compared_as_dvc_recorded_them(finished: Project, tmp_path: Path, monkeypatch: Any) -> None:
    project = finished.copy(tmp_path / "project").folder
    monkeypatch.chdir(project)
    code, shown = scadm("verify")
    assert code == 0 and "ok     reports/figures\n" in shown and "ok     reports/metrics.json\n" in shown
    (project / "reports/figures/partial_swap.png").unlink()
    assert "dvc.lock says the latter" in faults("reports/figures")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/raw/archive.zip", "data/raw"),
        ("storage/runs/aaaa/final/weights.safetensors", "runs/aaaa/final"),
        ("downloads/faces.zip", "downloads/faces.zip"),
        ("storage/imports/dddd/final/weights.safetensors", "imports/dddd/final"),
        ("storage/imports/dddd/autoencoder/weights.safetensors", "imports/dddd/autoencoder"),
    ],
)
def test_a_changed_byte_is_found_and_named(project: Path, path: str, name: str) -> None:
    data = bytearray((project / path).read_bytes())
    data[-1] ^= 1
    (project / path).write_bytes(data)
    code, shown = scadm("verify")
    assert code == 1
    (fault,) = [line for line in shown.splitlines() if line.startswith("fault")]
    assert fault.split(maxsplit=1)[1].startswith(f"{name}: ") and ("sha256" in fault or "fingerprint" in fault)
    assert "1 fault(s)." in shown


def faults(*names: str) -> str:
    """What is said of these, which must be all the faults."""
    code, shown = scadm("verify")
    lines = [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("fault")]
    assert code == 1 and [line.split(": ")[0] for line in lines] == list(names)
    return "\n".join(lines)


def test_an_out_without_its_manifest_is_found(project: Path) -> None:
    (project / "data/raw/manifest.json").unlink()
    (project / "reports/figures").mkdir(parents=True)  # an out that has none
    assert "data/raw has no manifest.json" in faults("data/raw")


def test_an_out_made_from_other_data_is_found(project: Path) -> None:
    raw = Manifest.read(project / "data/raw")
    raw.model_copy(update={"counts": {"faces": 7}}).write(project / "data/raw")
    said = faults("data/onehot")
    assert f"expected {raw.digest}" in said and "run `dvc repro`" in said
    shutil.rmtree(project / "data/raw")
    assert scadm("verify")[0] == 0, "DVC may hold what is not here"


def test_other_weights_than_were_trained_are_found(project: Path) -> None:
    place = Store(str(project / "storage/runs/bbbb/final"))
    write_checkpoint(place, {"weights": {"w": torch.zeros(100)}}, {"step": 10})
    assert f"is {digest_of(place)}, expected " in faults("weights of models/train.json")
    shutil.rmtree(project / "storage/runs/bbbb")
    assert scadm("verify")[0] == 0, "MLflow has them"
    (project / "models/train.json").write_text('{"run_key": "bbbb"}')
    assert "lacks ['sha256', 'weights']" in faults("weights of models/train.json")


def test_a_lost_file_is_found(project: Path) -> None:
    (project / "storage/runs/bbbb/checkpoints/step-00000010/config.json").unlink()
    code, shown = scadm("verify")
    assert code == 1 and "fault  runs/bbbb/checkpoints/step-00000010: " in shown


def test_what_is_kept_is_listed_and_nothing_deleted(project: Path) -> None:
    before = sorted(project.rglob("*"))
    code, shown = scadm("gc")
    assert code == 0
    for text in ("masks-1234", "runs/aaaa", "imports/dddd", "initial/eeee", "downloads/faces.zip", "cache/0123"):
        assert f"7.0 days  {project}/storage/{text}" in shown or f"{text}\n" in shown
    assert "runs/bbbb  (the run of models/train.json)" in shown
    assert "runs/cccc  (unfinished: can be resumed)" in shown
    assert f"{PART}  (unfinished: can be resumed)" in shown
    assert sorted(project.rglob("*")) == before


def test_only_what_is_named_is_freed(project: Path) -> None:
    code, shown = scadm("gc", "--free", "work", "--free", "runs", "--older", "0")
    assert code == 0 and "MB freed." in shown
    assert not list((project / ".work").iterdir()) and not (project / "storage/runs/aaaa").exists()
    assert (project / "storage/runs/bbbb/final").is_dir(), "it is in use"
    assert (project / "downloads/faces.zip").is_file() and (project / "storage/imports/dddd").is_dir()


def test_nothing_is_freed_without_an_age(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = CliRunner().invoke(cli.app, ["gc", "--free", "runs"])
    assert done.exit_code == 1 and "--free runs without --older, expected the days" in str(done.exception)
    assert sorted(project.rglob("*")) == before


def test_what_can_be_resumed_is_freed_only_when_that_is_said(project: Path) -> None:
    command = ("gc", "--free", "runs", "--free", "downloads", "--older", "0")
    assert "2 that could be resumed stayed; --unfinished frees them too." in scadm(*command)[1]
    assert (project / "storage/runs/cccc").is_dir() and (project / "downloads" / PART).is_file()
    assert "stayed" not in scadm(*command, "--unfinished")[1]
    assert not (project / "storage/runs/cccc").exists() and (project / "storage/runs/bbbb").is_dir()
    assert [path.name for path in (project / "downloads").iterdir()] == ["faces.zip.json"]


def test_a_freed_download_s_hash_is_still_known(project: Path) -> None:
    scadm("gc", "--free", "downloads", "--older", "0")
    assert sorted(path.name for path in (project / "downloads").iterdir()) == ["faces.zip.json", PART, f"{PART}.json"]


def test_what_is_younger_stays(project: Path) -> None:
    assert "masks-1234" not in scadm("gc", "--free", "work", "--older", "8")[1]
    assert (project / ".work/masks-1234").is_dir()
    os.utime(project / ".work/masks-1234/part")
    assert "(written to within the hour)" in scadm("gc", "--free", "work", "--older", "0")[1]
    assert (project / ".work/masks-1234").is_dir()


def test_what_a_running_stage_works_in_stays(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with work_lock(project / ".work/masks-1234"):
        assert "masks-1234  (a running stage works in it)" in scadm("gc", "--free", "work", "--older", "0")[1]
        # It may also begin after it was listed.
        monkeypatch.setattr(storage, "_is_held", lambda _: False)
        assert "0.0 MB freed." in scadm("gc", "--free", "work", "--older", "0")[1]
        assert (project / ".work/masks-1234/part").is_file()
    scadm("gc", "--free", "work", "--older", "0")
    assert not list((project / ".work").iterdir())


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("training", "init_from", "imports/dddd"), ("autoencoder", "weights", "storage/imports/dddd/autoencoder/vq-f4")],
)
def test_an_import_that_the_parameters_name_stays(project: Path, section: str, key: str, value: str) -> None:
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    assert "imports/dddd  (named in params.yaml)" in scadm("gc", "--free", "imports", "--older", "0")[1]
    assert (project / "storage/imports/dddd").is_dir() and not (project / "storage/initial/eeee").exists()


def test_an_unknown_kind_is_refused(project: Path) -> None:
    done = CliRunner().invoke(cli.app, ["gc", "--free", "everything"])
    assert "--free everything, expected work, runs, imports, downloads, shards" in str(done.exception)
