"""What a project keeps on disk: is it whole (`scadm verify`), and what of it can go (`scadm gc`)?"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from scadm import checkpoint
from scadm.data.fetch import Record
from scadm.data.shard_cache import default_folder
from scadm.manifest import FILE_NAME, Manifest, sha256
from scadm.stage import find_home, find_storage
from scadm.store import Store

Kind = Literal["work", "runs", "downloads", "shards"]
KINDS: dict[Kind, str] = {
    "work": "unfinished outs of stages that were killed; running the stage again continues from them",
    "runs": "checkpoints of trainings; MLflow has the final weights of its own",
    "downloads": "fetched archives and weights; they would be fetched again",
    "shards": "this machine's copies of remote shards; they would be fetched again",
}
"""What is kept -> what it is worth."""

_FRESH = 3600  # seconds: what was written to since then may be in use


@dataclass(frozen=True)
class Kept:
    kind: Kind
    path: Path
    bytes: int
    age: float
    """Seconds since anything in it was written."""
    in_use: str
    """Why it stays; empty where it can go."""


# --- is it whole? ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    name: str
    fault: str
    """Empty where it is whole."""


def verify(workspace: Path, root: str) -> Iterator[Checked]:
    """Compare every file with the size and sha256 that were recorded when it was written: outs, runs, downloads."""
    for out in _outs(workspace):
        if (workspace / out / FILE_NAME).is_file():
            yield _checked(out, lambda folder=workspace / out: Manifest.read(folder))
    home = find_home(workspace)
    runs = Store(f"{find_storage(root, home)}/runs")
    for run in runs.folders():
        for name in ["final", *(f"checkpoints/{step}" for step in (runs / run / "checkpoints").folders())]:
            place = runs / run / name
            if place.size(FILE_NAME) is not None:
                yield _checked(f"runs/{run}/{name}", lambda place=place: checkpoint.verify(place))
    for record in sorted((home / "downloads").glob("*.json")):
        yield _checked(f"downloads/{record.stem}", lambda record=record: _require_download(record))


def _outs(workspace: Path) -> list[str]:
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text())["stages"].values()
    return [out if isinstance(out, str) else next(iter(out)) for stage in stages for out in stage["outs"]]


def _checked(name: str, check: Callable[[], object]) -> Checked:
    try:
        check()
    except (ValueError, OSError) as error:
        return Checked(name, str(error))
    return Checked(name, "")


def _require_download(record_path: Path) -> None:
    record, path = Record.model_validate_json(record_path.read_bytes()), record_path.with_suffix("")
    if path.is_file() and (found := sha256(path)) != record.sha256:
        raise ValueError(f"{path} has sha256 {found}, its record says {record.sha256}: delete it, and fetch it again.")


# --- what can go? ---------------------------------------------------------------------------------------


def kept(workspace: Path, root: str) -> list[Kept]:
    """All that is kept beside DVC's own cache, largest first. A remote storage root is not looked at."""
    home, now = find_home(workspace), time.time()
    current = workspace / "models/train.json"
    run_key = json.loads(current.read_text())["run_key"] if current.is_file() else None
    places: dict[Kind, Path] = {"work": home / ".work", "downloads": home / "downloads", "shards": default_folder()}
    storage = find_storage(root, home)
    if "://" not in storage:
        places["runs"] = Path(storage) / "runs"
    found = []
    for kind, folder in places.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name.startswith(".") or (kind == "downloads" and path.suffix == ".json"):
                continue
            files = [file.stat() for file in [path, *path.rglob("*")] if file.is_file()]
            age = now - max((file.st_mtime for file in files), default=path.stat().st_mtime)
            in_use = "the run of models/train.json" if kind == "runs" and path.name == run_key else ""
            if not in_use and age < _FRESH:
                in_use = "written to within the hour"
            found.append(Kept(kind, path, sum(file.st_size for file in files), age, in_use))
    return sorted(found, key=lambda item: -item.bytes)


def free(items: list[Kept]) -> int:
    """Delete what is not in use; returns the bytes freed. The record of a download stays: its sha256 is still known."""
    freed = 0
    for item in items:
        if item.in_use:
            continue
        shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink()
        freed += item.bytes
    return freed
