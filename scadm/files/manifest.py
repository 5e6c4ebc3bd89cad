"""The manifest of a stage's out: what is in it, what it was made from, and how to tell that it is whole.

A folder counts only with its manifest, which is written last. A consumer verifies before it starts
(`Manifest.read`) and refuses a mismatch, naming both values.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from scadm import faces

FILE_NAME = "manifest.json"

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of an OSError that more space, or a higher limit, would mend."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tree: Any) -> str:
    """Hex digest of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_atomically(path: Path, content: bytes | str | Iterable[bytes | memoryview]) -> None:
    """Write a file whole or not at all, from its content or the pieces of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, tree: Any) -> None:
    """Write a JSON file whole or not at all, readable and with a stable order of keys."""
    write_atomically(path, json.dumps(tree, indent=1, sort_keys=True) + "\n")


class FileEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What a stage has written. Fields that do not apply to a stage are None or empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    labels: tuple[str, ...] = faces.LABELS
    resolution: int | None = None
    """Side of the images in pixels."""
    counts: dict[str, int] = {}
    splits: dict[Split, tuple[str, ...]] = {}
    """The ids of each split, in the order in which they are stored."""
    inputs: dict[str, str] = {}
    """Digest of the manifest of each out that this one was made from."""
    files: dict[str, FileEntry] = {}
    source: str | None = None
    """Where the faces come from."""
    address: str | None = None
    """What they were fetched from; not part of the digest, like `terms`."""
    terms: str | None = None
    """What the faces may be used for."""
    autoencoder: str | None = None
    """Fingerprint of the autoencoder: sha256 over its configuration and weights."""
    latent_mean: tuple[float, ...] | None = None
    """Per channel, over the train split only; likewise `latent_std`."""
    latent_std: tuple[float, ...] | None = None

    @property
    def digest(self) -> str:
        """Of what determines the result of those who read the out: the same bytes from a mirror are the same data."""
        return digest(self.model_dump(mode="json", exclude={"address", "terms"}))

    @classmethod
    def read(cls, folder: Path, *, verify: bool = True) -> "Manifest":
        """Read a folder's manifest; with `verify`, also compare the size and sha256 of every file.

        Raises ValueError if the manifest is missing or unreadable, uses other labels, or a file differs.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder} has no {FILE_NAME}, so it is not a finished out. Run `dvc repro` to make it.")
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} cannot be read: {error}. Delete {folder} and run `dvc repro`.") from None
        faces.require_labels(manifest.labels, str(path))
        if verify:
            manifest.verify(folder)
        return manifest

    def verify(self, folder: Path) -> None:
        """Raise ValueError unless each file is there with its recorded size and sha256."""
        for name, entry in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ValueError(f"{path} is missing, {FILE_NAME} lists it. Delete {folder} and run `dvc repro`.")
            size = path.stat().st_size
            if size != entry.bytes:
                raise ValueError(
                    f"{path} has {size} bytes, {FILE_NAME} says {entry.bytes}. Delete {folder} and run `dvc repro`."
                )
            found = sha256(path)
            if found != entry.sha256:
                raise ValueError(
                    f"{path} has sha256 {found}, {FILE_NAME} says {entry.sha256}: it was changed or damaged. "
                    f"Delete {folder} and run `dvc repro`."
                )

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, self.model_dump(mode="json", exclude_none=True))


def describe_files(
    folder: Path, names: Iterable[str], progress: Callable[[int], None] = lambda _: None
) -> dict[str, FileEntry]:
    """The manifest's entries for files of a folder; `progress` receives the bytes of each."""
    entries = {}
    for name in sorted(names):
        size = (folder / name).stat().st_size
        entries[name] = FileEntry(sha256=sha256(folder / name), bytes=size)
        progress(size)
    return entries


def require_same(what: str, found: object, expected: object, remedy: str) -> None:
    """Raise ValueError naming both values unless they are equal."""
    if found != expected:
        raise ValueError(f"{what} is {found}, expected {expected}. {remedy}")
