"""Where the user's faces come from: a local file or folder, copied into the pipeline's own keeping."""

from collections.abc import Callable
from pathlib import Path

_CHUNK = 8 << 20


def require_local(named: str, path: Path) -> None:
    """Raise ValueError if data.path, `named` in the parameters, is an address or does not exist at `path`."""
    if "://" in named:
        raise ValueError(
            f"data.path is the address {named}, expected a local file or folder. Nothing is fetched here, so "
            "that DVC can watch the source: download it (a browser will do) and set data.path to where it "
            "lies."
        )
    if not path.exists():
        raise ValueError(
            f"data.path is {named!r}, but {path} does not exist. There are no faces to read: put them there, "
            "or set data.path to where they are."
        )


def copy(source: Path, target: Path, progress: Callable[[int], object]) -> None:
    """Copy a file; `progress` receives the bytes of each chunk."""
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK):
            progress(write.write(chunk))
