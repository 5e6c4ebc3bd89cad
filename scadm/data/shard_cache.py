"""Shards at hand: local ones where they are, remote ones in a cache of bounded size for all processes of a machine."""

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from scadm.manifest import digest, sha256
from scadm.store import Store

CACHE_BYTES = 50_000_000_000
"""CelebAMask-HQ at 256 pixels, both orientations, takes about 8 GB."""

_REMEDY = "The index was written for other shards: make them again with `dvc repro --force latents`."


def default_folder() -> Path:
    """This user's, on this machine's own disk."""
    return Path(tempfile.gettempdir()) / f"scadm-shards-{os.getuid()}"


class ShardCache:
    """Opens the shards of a folder by name. Remote ones are fetched, checked, and kept until others need the room."""

    def __init__(self, store: Store, limit: int = CACHE_BYTES, folder: Path | None = None) -> None:
        self.store, self.limit = store, limit
        self.remote = "://" in store.root and not store.root.startswith("file://")
        self.folder = (folder or default_folder()) / digest(store.root)[:16]

    def open(self, name: str, size: int, content: str) -> int:
        """A descriptor of the shard `name`, which the index lists with `size` bytes and the sha256 `content`.

        Raises ValueError if there is no such shard, or it is another one.
        """
        if not self.remote:
            path = Path(self.store.path) / name
            if not path.is_file():
                raise ValueError(f"the shard {path} is missing, the index lists it. {_REMEDY}")
            self._require_size(path.stat().st_size, name, size)
            return os.open(path, os.O_RDONLY)
        while True:
            path = self._fetched(name, size, content)
            try:
                return os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # another process has just made room
                continue

    def _fetched(self, name: str, size: int, content: str) -> Path:
        path = self.folder / f"{content[:16]}-{name}"
        if path.is_file():
            path.touch()  # used last
            return path
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / ".lock"):
            if path.is_file():
                return path
            found = self.store.size(name)
            if found is None:
                raise ValueError(f"the shard {self.store.root}/{name} is missing, the index lists it. {_REMEDY}")
            self._require_size(found, name, size)
            self._make_room(size)
            part = self.folder / f".{name}.part"
            with (
                self.store.filesystem.open_input_stream(f"{self.store.path}/{name}") as read,
                part.open("wb") as write,
            ):
                shutil.copyfileobj(read, write, 4 << 20)
            got = sha256(part)
            if got != content:
                part.unlink()
                raise ValueError(
                    f"the shard {self.store.root}/{name} has sha256 {got}, the index says {content}: it was changed "
                    f"since. {_REMEDY}"
                )
            part.replace(path)
        return path

    def _require_size(self, found: int, name: str, size: int) -> None:
        if found != size:
            raise ValueError(
                f"the shard {self.store.root}/{name} has {found} bytes, the index says {size}: it is cut off, or "
                f"another one. {_REMEDY}"
            )

    def _make_room(self, size: int) -> None:
        """Delete the shards that were not used for longest until `size` more bytes keep to the limit, and fit the disk.

        Who has one of them open goes on reading it.
        """
        every = sorted(self.folder.parent.glob("*/*.tar"), key=lambda path: path.stat().st_mtime_ns)
        taken = sum(path.stat().st_size for path in every)
        while every and (taken + size > self.limit or size > shutil.disk_usage(self.folder).free):
            taken -= every[0].stat().st_size
            every.pop(0).unlink(missing_ok=True)
        if size > shutil.disk_usage(self.folder).free:
            raise ValueError(
                f"a shard of {size} bytes does not fit on the disk of {self.folder}. Free some space, or set TMPDIR to "
                "a larger disk."
            )
