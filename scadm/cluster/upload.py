"""What a Ray job gets of this folder: its code, parameters and lists of data, as Ray packs them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

MOST_BYTES = 20_000_000
_NAMED = 5
_SILENT = logging.getLogger(f"{__name__}.walk")
_SILENT.setLevel(logging.ERROR)


class Packed(NamedTuple):
    name: str
    bytes: int


def packed(folder: Path) -> list[Packed]:
    """The files that Ray uploads of a folder, largest first.

    It is Ray's own walk that finds them, by .gitignore, .rayignore and its defaults, so that this is what happens.
    """
    folder = folder.absolute()
    found: list[Packed] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append(Packed(path.relative_to(folder).as_posix(), path.stat().st_size))

    excludes = [_get_excludes(folder, get_runtime_env_default_excludes())]
    _dir_travel(folder, excludes, note, include_gitignore=True, logger=_SILENT)
    return sorted(found, key=lambda file: (-file.bytes, file.name))


def require_small(files: Sequence[Packed]) -> str:
    """What is uploaded, in words. Raises ValueError if it is more than code and parameters can be."""
    total = sum(file.bytes for file in files)
    if total > MOST_BYTES:
        largest = ", ".join(f"{file.name} ({file.bytes / 1e6:.1f} MB)" for file in files[:_NAMED])
        raise ValueError(
            f"the upload of this folder would take {total / 1e6:.1f} MB in {len(files)} files, expected at most "
            f"{MOST_BYTES / 1e6:g} MB of code and parameters: each node unpacks it for each job. The largest are "
            f"{largest}. Leave out by .rayignore what the job does not need; data go by `scadm share`."
        )
    return f"{len(files)} files, {total / 1e6:.2f} MB"


def require_complete(files: Sequence[Packed], needed: Sequence[str]) -> None:
    """Raise ValueError unless a file is uploaded for each path that the stage reads its code or parameters from."""
    names = [file.name for file in files]
    missing = [path for path in needed if not any(name == path or name.startswith(f"{path}/") for name in names)]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} would not be uploaded, because .gitignore or .rayignore leaves it out, and the job "
            "would fail. Add a line such as `!/" + missing[0] + "` to .rayignore, and mind .gitignore."
        )
