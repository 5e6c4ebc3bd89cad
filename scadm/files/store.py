"""Folders of files, on this machine or at an address."""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from scadm.files.manifest import write_atomically
from scadm.redaction import brief, redacted


@contextmanager
def answering(root: str) -> Iterator[None]:
    """Raise ValueError where a store at an address is away, or refuses, in the block. `root` is storage.root."""
    try:
        yield
    except OSError as error:
        if "://" not in root or not _is_of_store(error):
            raise
        raise ValueError(
            f"storage.root is {redacted(root)}, expected a store that answers this machine: {brief(error)}. Let it "
            "answer, give this machine credentials (AWS_ACCESS_KEY_ID and the like, AWS_ENDPOINT_URL of a store that "
            "is not Amazon's), or correct storage.root in params.yaml; `scadm doctor` tries it again. What is finished "
            "is kept: the same command goes on from there, a training from its last checkpoint."
        ) from None


def _is_of_store(error: OSError) -> bool:
    """Whether pyarrow raised an error for a store at an address. Of a local file the system gives it a number."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return error.errno is None and bool(frames) and frames[-1].f_globals["__name__"].startswith("pyarrow.")


_PIECE = 16 << 20
_UNDERWAY = 64 << 20
"""Bytes that may be on their way at once. A remote file system sends behind our back, and keeps what it has yet to."""


class Store:
    """A folder, local or remote (any URI that pyarrow's filesystems understand)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.filesystem, self.path = fs.FileSystem.from_uri(root) if "://" in root else (fs.LocalFileSystem(), root)

    def __truediv__(self, name: str) -> "Store":
        return Store(f"{self.root}/{name}")

    @property
    def local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
            return file.read()

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Whole or not at all, from the data or the pieces of it. What is small replaces what was there or leaves it.

        Raises OSError where the disk is full or the address cannot be reached.
        """
        if self.local:
            write_atomically(Path(self.path) / name, data)
            return
        self.filesystem.create_dir(self.path, recursive=True)
        at_once = isinstance(data, bytes) and len(data) <= _PIECE
        try:
            with self.filesystem.open_output_stream(f"{self.path}/{name}", compression=None) as file:
                underway = 0
                for piece in (data,) if isinstance(data, bytes) else data:
                    for start in range(0, len(piece), _PIECE):
                        file.write(memoryview(piece)[start : start + _PIECE])
                    underway += len(piece)
                    if underway >= _UNDERWAY:
                        file.flush()
                        underway = 0
        except BaseException:
            if not at_once:
                with suppress(OSError):  # closing it has put in place what there was of it
                    self.delete_file(name)
            raise

    def folders(self) -> list[str]:
        """Names of the folders inside, sorted."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        return sorted(i.base_name for i in self.filesystem.get_file_info(selector) if i.type == fs.FileType.Directory)

    def files(self) -> list[str]:
        """Names of the files inside, sorted, without what a killed writer has left unfinished."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path))
        return sorted(i.base_name for i in found if i.type == fs.FileType.File and not i.base_name.startswith("."))

    def size(self, name: str) -> int | None:
        info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return info.size if info.type == fs.FileType.File else None

    def delete(self) -> None:
        self.filesystem.delete_dir(self.path)

    def delete_file(self, name: str) -> None:
        self.filesystem.delete_file(f"{self.path}/{name}")
