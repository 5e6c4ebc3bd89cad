"""Files from addresses: fetched once into a cache, continued after a break, and known by their sha256.

An address is `http(s)://...`, `drive:ID` (a public file of Google Drive), or one that Arrow opens: `file://...`,
`s3://...`. The addresses of a file are mirrors of each other, tried in order. Beside a fetched file NAME lies its
record, `NAME.json`. Where the sha256 was not known, the record holds that of the first fetch, and no other is accepted
after. What has arrived so far from an address lies in `NAME-<digest of the address>.part`, and where it came from in
`NAME-<digest>.part.json`.
"""

import hashlib
import itertools
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import requests
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from scadm.data.streams import DRIVE, Broken, Changed, Stream, Unavailable, explain, gather, open_stream
from scadm.files.manifest import sha256, write_json

_LOOK = 4096
"""The first bytes of a file, which tell it from a web page."""

_TRIES = 5
"""Attempts in a row that bring nothing, after which an address is given up."""

_PAGE = (b"<!doctype html", b"<html", b"<head")

_PART = re.compile(r"(.+)-[0-9a-f]{8}\.part")


@dataclass(frozen=True)
class Wanted:
    """A file, under the name that it has in the cache."""

    name: str
    addresses: tuple[str, ...]
    sha256: str | None = None

    @property
    def is_zip(self) -> bool:
        return self.name.endswith(".zip")


class Record(BaseModel):
    """What is known of a file since it was fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: int
    address: str


class Fetched(NamedTuple):
    path: Path
    record: Record
    new_hash: bool
    """Whether the sha256 is known only since this fetch."""

    @property
    def remark(self) -> str | None:
        """What the user should know of it."""
        if not self.new_hash:
            return None
        return (
            f"the sha256 of {self.record.address} was not known; {self.record.sha256} is recorded, and required from "
            "now on"
        )


class Located(NamedTuple):
    path: Path
    remark: str | None
    """What the user should know of a file that was fetched."""


class Bar(Protocol):
    """What shows the progress: bytes of `total`, which is 0 where it is not known."""

    def start(self, name: str, total: int, done: int) -> None: ...
    def advance(self, count: int) -> None: ...


class _Unfinished(BaseModel):
    """Where the first bytes of a part file came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    mark: str | None
    total: int | None


def fetch(
    wanted: Wanted,
    cache: Path,
    bar: Bar,
    *,
    check: Callable[[Path], object] = lambda _: None,
    pause: float = 1.0,
    drive: str = DRIVE,
) -> Fetched:
    """The file from the cache, or from the first address that gives it whole.

    `check` raises ValueError for a path whose content is not what was wanted. It runs before the sha256 is recorded,
    so that a wrong file is never required later; an address that gives such a file does not serve. `pause` seconds lie
    before the second attempt at an address, and twice as many before each further one.

    Raises ValueError naming every address and why it did not serve; if the given sha256 is not the recorded one; if
    the file in the cache is not the recorded one, or fails the check; or if there is too little space for it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target, record_path = cache / wanted.name, cache / f"{wanted.name}.json"
    with FileLock(cache / f".{wanted.name}.lock"):
        known = Record.model_validate_json(record_path.read_bytes()) if record_path.is_file() else None
        if known is not None and wanted.sha256 not in (None, known.sha256):
            raise ValueError(
                f"the sha256 {wanted.sha256} is given for {wanted.name}, but the file that was fetched from "
                f"{known.address} has {known.sha256}. If the given one is mistyped, correct it, or give none. If "
                f"another file is meant, delete {record_path} and {target}: the next run then fetches it."
            )
        if known is not None and target.is_file():
            _require_recorded(target, known)
            try:
                check(target)
            except ValueError as error:
                raise ValueError(
                    f"{error} It was fetched from {known.address}: delete {target} and {record_path}, and the next run "
                    "fetches it again."
                ) from None
            return Fetched(target, known, new_hash=False)
        expected = known.sha256 if known else None
        reasons = []
        for address in wanted.addresses:
            part = cache / f"{wanted.name}-{_short(address)}.part"
            try:
                _transfer(address, part, wanted, bar, pause, drive)
                found = _accept(part, wanted, expected, check)
            except Unavailable as error:
                reasons.append(f"{address}: {error}")
                continue
            record = Record(sha256=found, bytes=part.stat().st_size, address=address)
            # The record first: a kill between the two leaves a part that is whole, and known to be.
            write_json(record_path, record.model_dump())
            part.replace(target)
            _origin(part).unlink(missing_ok=True)
            for left in cache.iterdir():  # of the other addresses
                if (match := _PART.fullmatch(left.name.removesuffix(".json"))) and match[1] == wanted.name:
                    left.unlink()
            return Fetched(target, record, new_hash=wanted.sha256 is None and known is None)
    begun = any((cache / f"{wanted.name}-{_short(address)}.part").is_file() for address in wanted.addresses)
    again = "What has arrived in part is kept: run the same command again to go on. Or give" if begun else "Give"
    raise ValueError(
        f"{wanted.name} could not be fetched:\n  " + "\n  ".join(reasons) + f"\n{again} other addresses, or fetch the "
        "file by other means and name its path."
    )


def is_part(path: Path) -> bool:
    """Whether a file of the cache is what has arrived of an unfinished one."""
    return _PART.fullmatch(path.name) is not None


def drop_part(part: Path) -> None:
    """Delete what has arrived of an unfinished file."""
    part.unlink(missing_ok=True)
    _origin(part).unlink(missing_ok=True)


def is_address(named: str) -> bool:
    """Whether it is the address of a file, not a path."""
    return "://" in named or named.startswith("drive:")


def locate(named: str, given: str | None, base: Path, downloads: Path, bar: Bar) -> Located:
    """Weights named by a path, relative to `base`, or by an address, which is fetched into `downloads`.

    `given` is the sha256 that they must have, if it is known. Raises ValueError as `fetch` and `require_sha256` do; a
    path at which there is nothing is returned as it is.
    """
    if not is_address(named):
        path = base / named
        if given is not None and path.exists():
            require_sha256(path, given)
        return Located(path, None)
    name = PurePosixPath(named.partition("?")[0].partition(":")[2]).name
    fetched = fetch(Wanted(f"{_short(named)}-{name}", (named,), given), downloads, bar)
    return Located(fetched.path, fetched.remark)


def require_sha256(path: Path, given: str) -> None:
    """Raise ValueError unless a local file has the sha256 that is given for it."""
    if not path.is_file():
        raise ValueError(
            f"{path} is a folder, but the sha256 {given} is given for it, expected that of a file. Give none (null)."
        )
    found = sha256(path)
    if found != given:
        raise ValueError(
            f"{path} has sha256 {found}, expected the {given} given. It is another file, or was damaged: name the "
            "right one, or correct the sha256; with none (null) the file is taken as it is."
        )


def _short(address: str) -> str:
    """Eight hex digits that tell an address from another one in the name of a file."""
    return hashlib.sha256(address.encode()).hexdigest()[:8]


def _require_recorded(path: Path, record: Record) -> None:
    size = path.stat().st_size
    found = sha256(path) if size == record.bytes else f"of {size} bytes"
    if found != record.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {record.sha256} ({record.bytes} bytes) as when it was fetched from "
            f"{record.address}. It was changed or damaged: delete it, and the next run fetches it again."
        )


def _accept(part: Path, wanted: Wanted, recorded: str | None, check: Callable[[Path], object]) -> str:
    """The sha256 of what has arrived. Raises Unavailable if it is not the file.

    What is another file is removed. It stays where the given sha256 says so alone: that may be mistyped.
    """
    found = sha256(part)
    if wanted.sha256 is not None and found != wanted.sha256:
        raise Unavailable(
            f"what it serves has sha256 {found}, expected the {wanted.sha256} given. It is kept as {part}: if the "
            "given one is mistyped, correct it, and nothing is fetched again"
        )
    try:
        if recorded is not None and found != recorded:
            raise ValueError(
                f"{part} has sha256 {found}, expected the {recorded} recorded when it was first fetched; if the file "
                f"was rightly replaced, delete {wanted.name}.json in {part.parent}"
            )
        if wanted.is_zip and not zipfile.is_zipfile(part):
            raise ValueError(
                f"{part} is no whole zip archive ({part.stat().st_size} bytes without a directory at the end)"
            )
        check(part)
    except ValueError as error:
        drop_part(part)
        raise Unavailable(str(error).replace(str(part), "what it serves")) from None
    return found


def _origin(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _transfer(address: str, part: Path, wanted: Wanted, bar: Bar, pause: float, drive: str) -> None:
    """Fill `part` from an address, going on from what is there if it came from the same version of the same file."""
    idle, anew = 0, False
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            return _attempt(address, part, wanted, bar, drive, anew=anew)
        except (Broken, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            now = part.stat().st_size if part.is_file() else 0
            idle = 0 if now > before else idle + 1
            anew = isinstance(error, Changed) or (anew and now == before)
            if idle == _TRIES:
                raise Unavailable(f"no more bytes came in {_TRIES} attempts, the last of which says: {error}") from None
            time.sleep(pause * 2 ** max(idle - 1, 0))
        except requests.RequestException as error:  # an address or an answer that no other attempt makes better
            raise Unavailable(f"it cannot be asked ({type(error).__name__}: {error})") from None


def _attempt(address: str, part: Path, wanted: Wanted, bar: Bar, drive: str, *, anew: bool) -> None:
    """One request. What is there is overwritten only once the first bytes of the file have come and look like it."""
    origin = _origin(part)
    there = None
    if not anew and origin.is_file() and part.is_file():
        there = _Unfinished.model_validate_json(origin.read_bytes())
    offset = 0 if there is None else part.stat().st_size
    with closing(open_stream(address, offset, there.mark if there is not None and offset else None, drive)) as stream:
        first = b""
        if stream.start == 0:
            first = gather(stream.chunks, _LOOK)
            if not first and stream.total != 0:
                raise Broken("nothing came")
            _refuse_page(first, wanted)
        elif there is None or not _same(stream, there):
            raise Changed("the file at the address has changed since its first bytes came")
        _require_space(part, wanted.name, stream)
        done = stream.start
        with part.open("r+b" if stream.start else "wb") as file:
            file.seek(stream.start)
            file.truncate()
            # Now that no byte of another version is there.
            write_json(origin, _Unfinished(address=address, mark=stream.mark, total=stream.total).model_dump())
            bar.start(wanted.name, stream.total or 0, stream.start)
            for chunk in itertools.chain([first], stream.chunks):
                done += file.write(chunk)
                bar.advance(len(chunk))
    if stream.total is not None and done != stream.total:
        raise Broken(f"the transfer ended after {done} of {stream.total} bytes")


def _same(stream: Stream, there: _Unfinished) -> bool:
    """Whether the bytes to come belong to those that are there; a server that says nothing of either gives no proof."""
    known = (stream.mark, stream.total)
    return known == (there.mark, there.total) and known != (None, None)


def _require_space(part: Path, name: str, stream: Stream) -> None:
    needed, free = (stream.total or 0) - stream.start, shutil.disk_usage(part.parent).free
    if stream.start == 0 and part.is_file():
        free += part.stat().st_size  # it is overwritten
    if needed > free:
        raise ValueError(
            f"{name} needs {needed / 1e9:.2f} GB more in {part.parent}, where {free / 1e9:.2f} GB are free. Free some "
            "space on that disk (`scadm gc` lists what is kept), or move that folder to a larger one and leave a "
            "symbolic link to it in its place."
        )


def _refuse_page(first: bytes, wanted: Wanted) -> None:
    """Raise Unavailable if a web page has come where a file was expected."""
    if first.startswith(b"PK"):  # a zip, as torch's checkpoints are too
        return
    if any(sign in first[:_LOOK].lower() for sign in _PAGE):
        raise Unavailable(explain(first.decode("utf-8", "replace")))
    if wanted.is_zip:
        raise Unavailable(f"what it serves is no zip archive: it begins with {first[:16]!r}")
