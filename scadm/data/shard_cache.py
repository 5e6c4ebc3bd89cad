"""Shards at hand: local ones where they are, remote ones in a cache of bounded size for all processes of a machine.

No shard is held open, so what the cache has deleted takes no disk.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from scadm.files.manifest import digest, sha256
from scadm.files.patience import patiently, said_here
from scadm.files.store import Store

CACHE_BYTES = 50_000_000_000
"""CelebAMask-HQ at 256 pixels, both orientations, takes about 8 GB."""

_REMEDY = "The index was written for other shards: make them again with `dvc repro --force latents`."
_ABANDONED = 3600  # seconds: an unfinished file that nobody has written to for as long is of a killed process


def default_folder() -> Path:
    """This user's, on this machine's own disk."""
    return Path(tempfile.gettempdir()) / f"scadm-shards-{os.getuid()}"


class ShardCache:
    """Reads the shards of a folder by name. Remote ones are fetched whole, checked, and kept while there is room.

    The cache keeps to `limit` bytes over all folders that are read through it on this machine.
    """

    def __init__(
        self,
        store: Store,
        limit: int = CACHE_BYTES,
        folder: Path | None = None,
        say: Callable[[str], None] = said_here,
    ) -> None:
        self.store, self.limit, self.say = store, limit, say
        self.remote = "://" in store.root and not store.root.startswith("file://")
        self.top = folder or default_folder()
        self.folder = self.top / digest(store.root)[:16]

    def read(self, name: str, size: int, content: str, first: int, count: int) -> bytes:
        """`count` bytes from `first` on of the shard `name`, which the index lists with `size` bytes and a sha256.

        Raises ValueError if there is no such shard, or it is another one.
        """
        while True:
            path = self._at_hand(name, size, content) if self.remote else Path(self.store.path) / name
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                if self.remote:
                    continue  # another process has just made room
                raise ValueError(f"the shard {path} is missing, the index lists it. {_REMEDY}") from None
            try:
                found = os.fstat(file).st_size
                if self.remote and found != size:
                    path.unlink(missing_ok=True)  # a machine that went down, or a hand: it is fetched again
                    continue
                self._require_size(found, name, size)
                return os.pread(file, count, first)
            finally:
                os.close(file)

    def _at_hand(self, name: str, size: int, content: str) -> Path:
        return patiently(self.store, lambda: self._fetched(name, size, content), self.say)

    def _fetched(self, name: str, size: int, content: str) -> Path:
        path = self.folder / f"{content[:16]}-{name}"
        with suppress(FileNotFoundError):
            os.utime(path)  # used last
            return path
        self._make_folder()
        with FileLock(self.folder / f".{name}.lock"):
            if path.is_file():
                return path
            found = self.store.size(name)
            if found is None:
                raise ValueError(f"the shard {self.store.root}/{name} is missing, the index lists it. {_REMEDY}")
            self._require_size(found, name, size)
            part = self.folder / f".{name}.part"
            self._make_room(part, size)
            with (
                self.store.filesystem.open_input_stream(f"{self.store.path}/{name}") as read,
                part.open("r+b") as write,
            ):
                shutil.copyfileobj(read, write, 4 << 20)
                os.fsync(write.fileno())
            got = sha256(part)
            if got != content:
                part.unlink()
                raise ValueError(
                    f"the shard {self.store.root}/{name} has sha256 {got}, the index says {content}: it was changed "
                    f"since. {_REMEDY}"
                )
            part.replace(path)
        return path

    def _make_folder(self) -> None:
        self.top.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.top.stat().st_uid != os.getuid():
            raise ValueError(
                f"{self.top}, the cache of remote shards, belongs to another user, who could change what is in it. "
                "Delete it, or set TMPDIR to a folder of your own."
            )
        self.folder.mkdir(exist_ok=True)

    def _require_size(self, found: int, name: str, size: int) -> None:
        if found != size:
            raise ValueError(
                f"the shard {self.store.root}/{name} has {found} bytes, the index says {size}: it is cut off, or "
                f"another one. {_REMEDY}"
            )

    def _make_room(self, part: Path, size: int) -> None:
        """Make `part` with `size` bytes still to be filled, after deleting what was not used for longest.

        Deleted are whole shards, of any folder of the cache, and what killed processes have left, until `size` more
        bytes keep to the limit and fit the disk.
        """
        with FileLock(self.top / ".lock"):
            kept: list[tuple[int, int, Path]] = []
            taken = 0
            for path in self.top.glob("*/*"):
                with suppress(FileNotFoundError):  # another process has just given it its name
                    found = path.stat()
                    taken += found.st_size
                    if path.suffix == ".tar" or (path.suffix == ".part" and found.st_mtime < time.time() - _ABANDONED):
                        kept.append((found.st_mtime_ns, found.st_size, path))
            kept.sort(reverse=True)
            while kept and (taken + size > self.limit or size > shutil.disk_usage(self.top).free):
                _, bytes, path = kept.pop()
                path.unlink(missing_ok=True)
                taken -= bytes
            if size > shutil.disk_usage(self.top).free:
                raise ValueError(
                    f"a shard of {size} bytes does not fit on the disk of {self.folder}. Free some space, or set "
                    "TMPDIR to a larger disk."
                )
            with part.open("wb") as file:
                file.truncate(size)  # others count it
