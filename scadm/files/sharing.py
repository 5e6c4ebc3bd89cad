"""Outs where a cluster without a shared file system finds them: at the storage root, each under its digest.

A copy is `<root>/outs/<digest>/`, the files of an out, or the one file that it is, with `copy.json`, written last, that
lists their sizes and sha256. A node fetches a copy once, whole, into a folder of its own. `shared.json` in the
workspace says which digest each out has: it is uploaded with a job, which so knows its inputs.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from filelock import FileLock, Timeout

from scadm.files.manifest import FileEntry, digest, sha256, write_json
from scadm.files.store import Store, answering

MARKER = "copy.json"
SHARED = "shared.json"
_CHUNK = 4 << 20
_UNUSED = 30 * 86_400  # seconds after which a node forgets a copy
_REMEDY = "Delete it, and run `scadm share` where the out is."

Advance = Callable[[int], object]
"""Told the bytes of each piece that is copied."""


def _ignore(_: int) -> None: ...


# --- files ----------------------------------------------------------------------------------------------


def put(source: Path, store: Store, name: str, advance: Advance = _ignore) -> FileEntry:
    """Copy a file into a store; returns what it is."""
    inner = store / str(PurePosixPath(name).parent) if "/" in name else store
    inner.filesystem.create_dir(inner.path, recursive=True)
    hash, size = hashlib.sha256(), 0
    with source.open("rb") as read, store.filesystem.open_output_stream(f"{store.path}/{name}") as write:
        while piece := read.read(_CHUNK):
            write.write(piece)
            hash.update(piece)
            size += len(piece)
            advance(len(piece))
    return FileEntry(sha256=hash.hexdigest(), bytes=size)


def get(store: Store, name: str, target: Path, entry: FileEntry) -> None:
    """Copy a file out of a store, whole or not at all. Raises ValueError unless it is what `entry` says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        hash, size = hashlib.sha256(), 0
        with store.filesystem.open_input_stream(f"{store.path}/{name}") as read, part.open("wb") as write:
            while piece := read.read(_CHUNK):
                write.write(piece)
                hash.update(piece)
                size += len(piece)
        found = FileEntry(sha256=hash.hexdigest(), bytes=size)
        if found != entry:
            raise ValueError(
                f"{store.root}/{name} has {found.bytes} bytes and sha256 {found.sha256}, expected {entry.bytes} and "
                f"{entry.sha256}: it was changed or damaged. {_REMEDY}"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


# --- copies of outs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copy:
    """What `copy.json` says."""

    file: str | None
    """The name of an out that is one file."""
    files: Mapping[str, FileEntry]

    @classmethod
    def read(cls, place: Store) -> "Copy | None":
        """None where there is no copy, or it is not finished."""
        if place.size(MARKER) is None:
            return None
        tree = json.loads(place.read(MARKER))
        return cls(tree["file"], {name: FileEntry(**entry) for name, entry in tree["files"].items()})

    def write(self, place: Store) -> None:
        tree = {"file": self.file, "files": {name: entry.model_dump() for name, entry in self.files.items()}}
        place.write(MARKER, json.dumps(tree, indent=1, sort_keys=True).encode())


def copy_place(root: str, content: str) -> str:
    """Where the copy of an out lies: a place as `at_hand` takes it, and ShardReader for shards."""
    return f"{root}/outs/{content}"


def is_there(place: Store) -> bool:
    """Whether a copy is finished and its files have the sizes that it lists."""
    copy = Copy.read(place)
    return copy is not None and all(place.size(name) == entry.bytes for name, entry in copy.files.items())


def files_of(out: Path) -> dict[str, Path]:
    """The files of an out by their names in its copy."""
    if out.is_file():
        return {out.name: out}
    return {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}


def share(out: Path, place: Store, advance: Advance = _ignore) -> None:
    """Copy an out to the storage root; files of an earlier, interrupted attempt stay. Raises ValueError on a name that
    is the copy's own, or where what arrived has another size."""
    files = files_of(out)
    if MARKER in files:
        raise ValueError(f"{out} holds a file {MARKER}, which is the name of what describes a copy of it: rename it.")
    entries = {}
    for name, path in files.items():
        size = path.stat().st_size
        if place.size(name) == size:
            entries[name] = FileEntry(sha256=sha256(path), bytes=size)
            advance(size)
        else:
            entries[name] = put(path, place, name, advance)
        if (found := place.size(name)) != entries[name].bytes:
            raise ValueError(f"{place.root}/{name} has {found} bytes, expected {size}: it did not arrive. Try again.")
    Copy(out.name if out.is_file() else None, entries).write(place)


def _require_copy(place: Store) -> Copy:
    copy = Copy.read(place)
    if copy is None:
        raise ValueError(f"{place.root} is not a finished copy of an out: it has no {MARKER}. Run `scadm share`.")
    return copy


def fetch(place: Store, target: Path) -> None:
    """Put the out whose copy `place` is at `target`, whole or not at all, instead of what is there."""
    copy = _require_copy(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy.file is not None:
        get(place, copy.file, target, copy.files[copy.file])
        return
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, entry in copy.files.items():
            get(place, name, part / name, entry)
        part.chmod(0o755)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# --- on a node ------------------------------------------------------------------------------------------


def node_folder() -> Path:
    """This user's folder for copies and unfinished work, on this machine's own disk."""
    folder = Path(tempfile.gettempdir()) / f"scadm-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(
            f"{folder}, for copies of outs, belongs to another user, who could change what is in it. Delete it, or set "
            "TMPDIR to a folder of your own."
        )
    return folder


def node_home(root: str) -> Path:
    """What is the home on a node that shares no folder with the others: for each storage root one."""
    home = node_folder() / digest(root)[:16]
    home.mkdir(exist_ok=True)
    return home


_OWN: dict[Path, FileLock] = {}
"""This process's own folders. A lock ends with the process: the system drops it, and no child inherits it."""


def own_folder(top: Path, name: str) -> Path:
    """The folder `name` in `top` as this process's own, until `drop` or the process's end. It need not be there."""
    folder = top / name
    if folder not in _OWN:
        top.mkdir(parents=True, exist_ok=True)
        _OWN[folder] = FileLock(top / f".{name}.lock", thread_local=False)
        _OWN[folder].acquire()
        forget_ended(top)
    return folder


def drop(folder: Path) -> None:
    """Delete an own folder."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _OWN.pop(folder, None)) is not None:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def forget_ended(top: Path) -> None:
    """Delete the folders in `top` whose processes have ended; of those that belong to none here, the month-old ones.

    The latter are of tasks whose driver is on another node: there is no telling whether it lives.
    """
    if not top.is_dir():
        return
    of_processes = {path.name.removeprefix(".").removesuffix(".lock"): path for path in top.glob(".*.lock")}
    for name, path in of_processes.items():
        lock = FileLock(path, thread_local=False)
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(top / name, ignore_errors=True)
                path.unlink(missing_ok=True)
        except Timeout:
            continue
    _forget_unused(top, keep=of_processes)


def at_hand(place: str) -> Path:
    """The out at `place` as a local file or folder: a path is returned as it is, of a copy's URI what was fetched.

    It is fetched once a machine, whole, and compared with its sizes and sha256. What nobody has asked for in a month
    makes room for what is fetched.
    """
    if "://" not in place:
        return Path(place)
    store = Store(place)
    name = place.rstrip("/").rsplit("/", 1)[-1]
    top = node_folder() / "outs"
    top.mkdir(exist_ok=True)
    with FileLock(top / f".{name}.lock"):
        found = next(iter((top / name).iterdir()), None) if (top / name).is_dir() else None
        if found is None:
            _forget_unused(top)
            copy = _require_copy(store)
            # One level more, so that the folder that appears by one rename holds a file under its own name.
            unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=top))
            try:
                fetch(store, unfinished / (copy.file or "out"))
                unfinished.rename(top / name)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            found = next((top / name).iterdir())
        os.utime(top / name)
    return found


def _forget_unused(top: Path, keep: Container[str] = ()) -> None:
    for path in top.iterdir():
        # Also what a killed process left unfinished. Locks stay: somebody may hold one.
        if path.name not in keep and path.is_dir() and path.stat().st_mtime < time.time() - _UNUSED:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a stage on a node; the paths are the same on all nodes. It travels by pickle."""

    root: str
    """Of the storage."""
    folder: str
    """Absolute path below which each input appears under its own name."""
    outs: Mapping[str, str]
    """Digest of each input."""

    def fetch(self, under: str = "") -> None:
        """Have the inputs at hand that are `under`, or lie below it; all of them without a name."""
        for name, content in self.outs.items():
            if not under or name == under or name.startswith(f"{under}/"):
                self._link(Path(self.folder) / name, at_hand(copy_place(self.root, content)))

    def _link(self, path: Path, target: Path) -> None:
        if path.is_symlink() and path.readlink() == target:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.link")
        part.unlink(missing_ok=True)
        part.symlink_to(target)
        part.replace(path)


@dataclass(frozen=True)
class Spread:
    """How the tasks of a stage share their work on nodes that share no folder: by parts at the storage root."""

    inputs: Inputs
    work: str
    """Absolute path of the work folder, the same on all nodes."""
    parts: str
    """URI of the folder with the parts that are made."""

    def _kept(self, name: str) -> FileEntry | None:
        """What is said of a part that was put at the storage root whole."""
        parts, note = Store(self.parts), f"{name}.json"
        return FileEntry(**json.loads(parts.read(note))) if parts.size(note) is not None else None

    def _here(self, name: str) -> FileEntry | None:
        path = Path(self.work) / name
        return FileEntry(sha256=sha256(path), bytes=path.stat().st_size) if path.is_file() else None

    def have(self, name: str) -> None:
        """Have the part that was made before, here or elsewhere, if there is one; a damaged one is made again."""
        kept = self._kept(name)
        if kept is not None and kept != self._here(name):
            parts = Store(self.parts)
            try:
                get(parts, name, Path(self.work) / name, kept)
            except ValueError:
                parts.filesystem.delete_file(f"{parts.path}/{name}.json")

    def keep(self, name: str) -> FileEntry:
        """Put a part that was made, or found whole, where every node finds it."""
        made = self._here(name)
        if made is None:
            raise ValueError(f"the task made no {Path(self.work) / name}, which is its part of the stage's out.")
        if made != self._kept(name):
            put(Path(self.work) / name, Store(self.parts), name)
            Store(self.parts).write(f"{name}.json", made.model_dump_json().encode())
        return made

    def gather(self, name: str, entry: FileEntry) -> None:
        """Have a part here that may have been made elsewhere. Raises ValueError if it is not what was made."""
        if self._here(name) != entry:
            get(Store(self.parts), name, Path(self.work) / name, entry)


class Spreading:
    """A task's function on a node: with its inputs at hand, and its part, where it makes one, kept for all."""

    def __init__(self, make: Callable[[], Callable[..., Any]], spread: Spread) -> None:
        forget_ended(Path(spread.inputs.folder).parent)
        with answering(spread.inputs.root):
            spread.inputs.fetch()
        Path(spread.work).mkdir(parents=True, exist_ok=True)
        self.function, self.spread = make(), spread

    def __call__(self, part: str | None, task: Mapping[str, Any]) -> tuple[Any, FileEntry | None]:
        if part is None:
            return self.function(**task), None
        with answering(self.spread.inputs.root):
            self.spread.have(part)
        result = self.function(**task)
        with answering(self.spread.inputs.root):
            return result, self.spread.keep(part)


# --- which copies the inputs are ------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """What `shared.json` says."""

    root: str
    outs: Mapping[str, str]
    """Digest of each out."""
    recorded: Mapping[str, str]
    """What dvc.lock said of each out when it was shared."""

    @classmethod
    def read(cls, workspace: Path) -> "Shared | None":
        path = workspace / SHARED
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    def write(self, workspace: Path) -> None:
        write_json(workspace / SHARED, {"root": self.root, "outs": dict(self.outs), "recorded": dict(self.recorded)})

    def joined(self, other: Self) -> "Shared":
        """With another one's outs too, of the same root."""
        if other.root != self.root:
            return other
        return Shared(self.root, {**self.outs, **other.outs}, {**self.recorded, **other.recorded})
