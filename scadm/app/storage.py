"""What a project keeps on disk: is it whole (`scadm verify`), and what of it can go (`scadm gc`)?"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import Timeout

from scadm.config import Params
from scadm.data.fetch import Record, drop_part, is_part
from scadm.data.shard_cache import default_folder
from scadm.files import checkpoint
from scadm.files.checkpoint import RESUMABLE
from scadm.files.manifest import FILE_NAME, Manifest, require_same, sha256
from scadm.files.sharing import node_folder
from scadm.files.store import Store
from scadm.first_stage import load_first_stage
from scadm.stage import find_home, find_storage, recorded_outs, work_lock
from scadm.training.saver import BEST

Kind = Literal["work", "runs", "imports", "downloads", "shards", "copies", "results"]
KINDS: dict[Kind, str] = {
    "work": "unfinished outs of stages that were killed; running the stage again continues from them",
    "runs": "checkpoints of trainings; MLflow has the final weights of its own",
    "imports": "what `scadm import-checkpoint` took in, which would have to be done again, and copies of other weights "
    "that trainings started from",
    "downloads": "fetched archives and weights; they would be fetched again",
    "shards": "this machine's copies of remote shards; they would be fetched again",
    "copies": "this machine's copies of outs at a remote storage root; they would be fetched again",
    "results": "what jobs of a cluster said that they have made; a stage run again finds out anew",
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
    unfinished: bool
    """Whether it is a training or a download that could be resumed."""


# --- is it whole? ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    name: str
    fault: str
    """Empty where it is whole, or absent."""
    absent: str = ""
    """Where there is nothing to compare: what that means."""


def verify(workspace: Path, root: str) -> Iterator[Checked]:
    """Compare every file with the size and sha256 that were recorded when it was written.

    These are the outs, and what each was made from; runs and imports at the storage root; and downloads, of which
    unfinished ones are left out: nothing is recorded of them.
    """
    yield from _verify_outs(workspace)
    home = find_home(workspace)
    storage = Store(find_storage(root, home))
    if (trained := workspace / "models/train.json").is_file():
        yield _weights(trained, storage)
    for run in (storage / "runs").folders():
        kept = [
            f"runs/{run}/{kind}/{s}" for kind in (RESUMABLE, BEST) for s in (storage / "runs" / run / kind).folders()
        ]
        yield from _verify_checkpoints(storage, [f"runs/{run}/final", *kept])
    yield from _verify_checkpoints(storage, [f"imports/{key}/final" for key in (storage / "imports").folders()])
    yield from _verify_checkpoints(storage, [f"initial/{key}" for key in (storage / "initial").folders()])
    for folder in sorted((home / "storage" / "imports").glob("*/autoencoder")):
        yield _checked(f"imports/{folder.parent.name}/autoencoder", lambda folder=folder: _require_import(folder))
    for record in sorted((home / "downloads").glob("*.json")):
        path = record.with_suffix("")
        if path.is_file() and not is_part(path):
            yield _checked(f"downloads/{path.name}", lambda record=record, path=path: _require_download(record, path))


def _verify_outs(workspace: Path) -> Iterator[Checked]:
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text())["stages"].values()
    read = {dep for stage in stages for dep in stage["deps"]}
    every = (out for stage in stages for out in [*stage["outs"], *stage.get("metrics", [])])
    outs = [out if isinstance(out, str) else next(iter(out)) for out in every]
    recorded = recorded_outs(workspace)
    manifests = [out for out in outs if (workspace / out / FILE_NAME).is_file()]
    for out in outs:
        if out in recorded and not (workspace / out).exists():
            yield Checked(out, "", "dvc.lock lists it: `dvc pull` fetches it, or `dvc repro` makes it")
        elif out in recorded and out not in manifests:
            yield _checked(out, lambda out=out: _require_recorded(workspace, out, recorded[out]))
        # Of the folders, those that a stage computes with have a manifest: it is how the stage knows that they are
        # whole. Figures are but shown, and DVC would take a manifest among them for a plot.
        elif out in manifests or (out in read and (workspace / out).is_dir() and not out.startswith("reports/")):
            yield _checked(out, lambda out=out: _require_out(workspace, out, manifests))


def _require_recorded(workspace: Path, out: str, recorded: str) -> None:
    """Raise ValueError unless an out without a manifest is what DVC has recorded."""
    path = workspace / out
    if path.is_dir():  # as DVC does: of the list of the files, sorted by name
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        rows = [{"md5": _md5(path / name), "relpath": name} for name in files]
        found = hashlib.md5(json.dumps(rows, sort_keys=True).encode()).hexdigest() + ".dir"
    else:
        found = _md5(path)
    require_same(f"the md5 of {out}", found, recorded, "dvc.lock says the latter: run `dvc repro`, or `dvc checkout`.")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _require_out(workspace: Path, out: str, manifests: list[str]) -> None:
    """Raise ValueError unless an out is whole, and was made from the outs that are there now."""
    manifest = Manifest.read(workspace / out)
    for name, recorded in manifest.inputs.items():
        if name in manifests:
            now = Manifest.read(workspace / name, verify=False).digest
            remedy = f"{out} was made from other data than is there now: run `dvc repro`."
            require_same(f"the digest of {name}", now, recorded, remedy)


def _weights(trained: Path, storage: Store) -> Checked:
    """The weights that models/train.json names."""
    found = _checked("weights of models/train.json", lambda: _require_trained(trained, storage))
    place = storage / json.loads(trained.read_text()).get("weights", "")
    if not found.fault and place.size(FILE_NAME) is None:
        return Checked(found.name, "", f"they are not in {place.root}; an evaluation takes them from the MLflow run")
    return found


def _require_trained(path: Path, storage: Store) -> None:
    """Raise ValueError if the weights that models/train.json names are others than were trained.

    Weights that are not at the storage root are found in MLflow, and compared there when they are read.
    """
    tree: dict[str, Any] = json.loads(path.read_text())
    if missing := {"weights", "sha256"} - tree.keys():
        raise ValueError(f"{path} lacks {sorted(missing)}: run `dvc repro --force train`, which ends at once.")
    final = storage / tree["weights"]
    if final.size(FILE_NAME) is not None:
        remedy = f"These are not the weights that {path.name} names: run `dvc repro --force train`."
        require_same(f"the digest of {final.root}", checkpoint.digest_of(final), tree["sha256"], remedy)


def _require_import(autoencoder: Path) -> None:
    try:
        load_first_stage(autoencoder)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{' '.join(str(error).split())} It was taken in by `scadm import-checkpoint`: delete {autoencoder.parent} "
            "and run that again."
        ) from None


def _verify_checkpoints(storage: Store, names: list[str]) -> Iterator[Checked]:
    for name in names:
        place = storage / name
        if place.size(FILE_NAME) is not None:
            yield _checked(name, lambda place=place: checkpoint.verify(place))


def _checked(name: str, check: Callable[[], object]) -> Checked:
    try:
        check()
    except (ValueError, OSError) as error:
        return Checked(name, str(error))
    return Checked(name, "")


def _require_download(record_path: Path, path: Path) -> None:
    record = Record.model_validate_json(record_path.read_bytes())
    if (found := sha256(path)) != record.sha256:
        raise ValueError(f"{path} has sha256 {found}, its record says {record.sha256}: delete it, and fetch it again.")


# --- what can go? ---------------------------------------------------------------------------------------


def kept(workspace: Path, params: Params) -> list[Kept]:
    """All that is kept beside DVC's own cache, largest first. A remote storage root is not looked at."""
    home = find_home(workspace)
    places: list[tuple[Kind, Path]] = [
        ("work", home / ".work"),
        ("imports", home / "storage" / "imports"),
        ("downloads", home / "downloads"),
        ("shards", default_folder()),
        ("copies", node_folder() / "outs"),
    ]
    root = find_storage(params.storage.root, home)
    if "://" not in root:
        places.append(("runs", Path(root) / "runs"))
        places.append(("results", Path(root) / "results"))
        places.append(("imports", Path(root) / "initial"))
        if Path(root) / "imports" != home / "storage" / "imports":
            places.append(("imports", Path(root) / "imports"))
    current = workspace / "models/train.json"
    run_key = json.loads(current.read_text())["run_key"] if current.is_file() else None
    found = [
        _kept(kind, path, run_key, params)
        for kind, folder in places
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if not path.name.startswith(".") and not (kind == "downloads" and path.suffix == ".json")
    ]
    return sorted(found, key=lambda item: -item.bytes)


def _kept(kind: Kind, path: Path, run_key: str | None, params: Params) -> Kept:
    files = [file.stat() for file in [path, *path.rglob("*")] if file.is_file()]
    age = time.time() - max((file.st_mtime for file in files), default=path.stat().st_mtime)
    unfinished = kind == "downloads" and is_part(path)
    in_use = ""
    if kind == "runs":
        unfinished = not checkpoint.is_complete(Store(str(path / "final")))
    if run_key is not None and (kind, path.name) in (("runs", run_key), ("work", f"weights-{run_key}")):
        in_use = "the run of models/train.json"
    elif kind == "imports" and path.name in f"{params.training.init_from} {params.autoencoder.weights}":
        in_use = "named in params.yaml"
    elif kind == "work" and _is_held(path):
        in_use = "a running stage works in it"
    elif age < _FRESH:
        in_use = "written to within the hour"
    return Kept(kind, path, sum(file.st_size for file in files), age, in_use, unfinished)


def _is_held(folder: Path) -> bool:
    lock = work_lock(folder)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def free(items: list[Kept], *, unfinished: bool) -> int:
    """Delete what is not in use, and of what could be resumed only with `unfinished`; returns the bytes freed.

    The record of a download stays: its sha256 is still known.
    """
    freed = 0
    for item in items:
        if item.in_use or (item.unfinished and not unfinished):
            continue
        if item.kind == "work":
            lock = work_lock(item.path)
            try:
                with lock.acquire(timeout=0):  # a stage may have begun since it was listed
                    _delete(item.path)
                    Path(lock.lock_file).unlink()
            except Timeout:
                continue
        else:
            _delete(item.path)
        freed += item.bytes
    return freed


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif is_part(path):
        drop_part(path)
    else:
        path.unlink()
