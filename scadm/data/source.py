"""Where the faces come from: drawn, fetched, or the user's own, into one archive in the pipeline's own keeping."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scadm.config import DataConfig
from scadm.data import official
from scadm.data.archive import FaceArchive
from scadm.data.fetch import Wanted, fetch, require_sha256
from scadm.data.folder import count_images, pack_folder
from scadm.data.synthetic import write_archive, write_factors
from scadm.progress import Transfer, bar

_CHUNK = 8 << 20


class Origin(NamedTuple):
    files: list[str]
    """What was written, the archive first."""
    address: str | None
    """What it was fetched from."""
    terms: str | None
    """What the faces may be used for."""


def obtain(data: DataConfig, seed: int, given: Path, downloads: Path, work: Path, say: Callable[[str], None]) -> Origin:
    """Write `work`/archive.zip from what the parameters name; `given` is data.path, fetched files are in `downloads`.

    Raises ValueError where there is nothing to read, or it is not an archive of whole faces, or not the given one.
    """
    target = work / "archive.zip"
    if data.source == "synthetic":
        count = data.synthetic.count
        with bar(count, "faces", "faces") as progress:
            write_archive(
                target,
                seed=seed,
                count=count,
                image_size=data.synthetic.image_size,
                progress=lambda finished: progress.update(finished - progress.n),
            )
        write_factors(work / "factors.parquet", seed=seed, count=count)
        return Origin([target.name, "factors.parquet"], None, None)
    if data.source == "folder":
        require_local(data.path, given)
        with bar(count_images(given), "faces", "faces") as progress:
            pack_folder(given, target, progress.update)
        return Origin([target.name], None, None)
    say(official.TERMS)
    if data.addresses:
        address = _fetch(data, downloads, target, say)
    else:
        address = None
        require_local(data.path, given)
        FaceArchive(given).select(data.known_bad)  # a fault shows before gigabytes are copied
        if data.sha256 is not None:
            require_sha256(given, data.sha256)
        with bar(given.stat().st_size, "copy", "bytes") as progress:
            copy(given, target, progress.update)
    return Origin([target.name], address, official.TERMS)


def _fetch(data: DataConfig, downloads: Path, target: Path, say: Callable[[str], None]) -> str:
    def check(path: Path) -> None:
        archive = FaceArchive(path)
        official.require_whole(archive)
        # An id that is none of its faces is a fault of the parameters, not of the archive.
        archive.select([id for id in data.known_bad if id in archive.ids])

    with Transfer() as transfer:
        fetched = fetch(Wanted("CelebAMask-HQ.zip", data.addresses, data.sha256), downloads, transfer, check=check)
    if fetched.remark is not None:
        say(fetched.remark)
    FaceArchive(fetched.path).select(data.known_bad)
    target.unlink(missing_ok=True)
    try:
        os.link(fetched.path, target)  # not stored twice
    except OSError:  # another disk
        with bar(fetched.record.bytes, "copy", "bytes") as progress:
            copy(fetched.path, target, progress.update)
    return fetched.record.address


def require_local(named: str, path: Path) -> None:
    """Raise ValueError if data.path, `named` in the parameters, is an address or does not exist at `path`."""
    if "://" in named:
        raise ValueError(
            f"data.path is the address {named}, expected a local file or folder, which DVC can watch. An archive in "
            "the official layout can be fetched: set data.addresses to the address, and data.path to "
            "scadm/data/fetch.py."
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
