"""Files from addresses: fetched once into a cache, continued after a break, and known by their sha256.

An address is `http(s)://...`, `drive:ID` (a public file of Google Drive), or one that Arrow opens: `file://...`,
`s3://...`. The addresses of a file are mirrors of each other, tried in order. Beside a fetched file NAME lies its
record, `NAME.json`. Where the sha256 was not known, the record holds that of the first fetch, and no other is accepted
after.
"""

import shutil
import time
import zipfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol
from urllib.parse import urljoin

import pyarrow as pa
import requests
from filelock import FileLock
from pyarrow import fs
from pydantic import BaseModel, ConfigDict

from scadm.manifest import sha256, write_json

DRIVE = "https://drive.usercontent.google.com/download"
"""What serves the public files of Google Drive; those that it cannot scan for viruses, after a form."""

_CHUNK = 1 << 16  # what a break may lose
_TRIES = 5
"""Attempts in a row that bring nothing, after which an address is given up."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that another attempt may not meet."""

_QUOTA = ("quota", "too many users have viewed or downloaded")


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


class Bar(Protocol):
    """What shows the progress: bytes of `total`, which is 0 where it is not known."""

    def start(self, name: str, total: int, done: int) -> None: ...
    def advance(self, count: int) -> None: ...


class _Unavailable(Exception):
    """An address does not give the file; another one may."""


class _Broken(Exception):
    """The transfer ended early; another attempt may go on."""


class _Changed(_Broken):
    """What has arrived is no part of what is at the address now."""


class _Stream(NamedTuple):
    start: int
    """Where in the file the chunks begin: 0 if it could not be continued."""
    total: int | None
    mark: str | None
    """Tells this version of the file from another one."""
    chunks: Generator[bytes]


class _Unfinished(BaseModel):
    """Where the first bytes of a part file came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    mark: str | None
    total: int | None


def fetch(wanted: Wanted, cache: Path, bar: Bar, *, pause: float = 1.0, drive: str = DRIVE) -> Fetched:
    """The file from the cache, or from the first address that gives it whole.

    `pause` seconds lie before the second attempt at an address, and twice as many before each further one. Raises
    ValueError naming every address and why it did not serve; if the file in the cache is not the recorded one; or if
    there is too little space for it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target, record_path = cache / wanted.name, cache / f"{wanted.name}.json"
    with FileLock(cache / f".{wanted.name}.lock"):
        known = Record.model_validate_json(record_path.read_bytes()) if record_path.is_file() else None
        expected = wanted.sha256 or (known.sha256 if known else None)
        if known is not None and wanted.sha256 not in (None, known.sha256):
            known = None  # another file under the same name
            target.unlink(missing_ok=True)
        if known is not None and target.is_file():
            _require_recorded(target, known)
            return Fetched(target, known, new_hash=False)
        reasons = []
        for address in wanted.addresses:
            part = cache / f".{wanted.name}.part"
            try:
                _transfer(address, part, wanted, bar, pause, drive)
                found = _accept(part, wanted, expected, recorded=wanted.sha256 is None)
            except _Unavailable as error:
                reasons.append(f"{address}: {error}")
                continue
            record = Record(sha256=found, bytes=part.stat().st_size, address=address)
            part.replace(target)
            write_json(record_path, record.model_dump())
            _origin(part).unlink(missing_ok=True)
            return Fetched(target, record, new_hash=expected is None)
    raise ValueError(
        f"{wanted.name} could not be fetched:\n  " + "\n  ".join(reasons) + "\nWhat has arrived is kept: run the same "
        "command again to go on. Or give other addresses, or fetch the file by other means and name its path."
    )


def is_address(named: str) -> bool:
    """Whether it is the address of a file, not a path."""
    return "://" in named or named.startswith("drive:")


def locate(named: str, sha256: str | None, base: Path, downloads: Path, bar: Bar) -> Path:
    """The path of weights named by a path, relative to `base`, or by an address, which is fetched into `downloads`.

    Raises ValueError as `fetch` does.
    """
    if not is_address(named):
        return base / named
    name = PurePosixPath(named.partition("?")[0].partition(":")[2]).name
    return fetch(Wanted(name, (named,), sha256), downloads, bar).path


def _require_recorded(path: Path, record: Record) -> None:
    size = path.stat().st_size
    found = sha256(path) if size == record.bytes else f"of {size} bytes"
    if found != record.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {record.sha256} ({record.bytes} bytes) as when it was fetched from "
            f"{record.address}. It was changed or damaged: delete it, and the next run fetches it again."
        )


def _accept(part: Path, wanted: Wanted, expected: str | None, *, recorded: bool) -> str:
    """The sha256 of what has arrived. Raises _Unavailable, and removes it, if it is not the file."""
    found = sha256(part)
    fault = None
    if expected is not None and found != expected:
        origin = "recorded when it was first fetched" if recorded else "given"
        fault = f"what it serves has sha256 {found}, expected the {expected} {origin}"
        if recorded:
            fault += f"; if the file was rightly replaced, delete {wanted.name}.json beside it in the cache"
    elif wanted.is_zip and not zipfile.is_zipfile(part):
        fault = f"what it serves is no whole zip archive ({part.stat().st_size} bytes without a directory at the end)"
    if fault is not None:
        part.unlink()
        raise _Unavailable(fault)
    return found


def _origin(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _transfer(address: str, part: Path, wanted: Wanted, bar: Bar, pause: float, drive: str) -> None:
    """Fill `part` from an address, going on from what is there if it came from the same version of the same file."""
    idle = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            return _attempt(address, part, wanted, bar, drive)
        except (_Broken, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            now = part.stat().st_size if part.is_file() else 0
            idle = 0 if now > before else idle + 1
            if idle == _TRIES:
                raise _Unavailable(
                    f"no more bytes came in {_TRIES} attempts, the last of which says: {error}"
                ) from None
            time.sleep(pause * 2 ** max(idle - 1, 0))


def _attempt(address: str, part: Path, wanted: Wanted, bar: Bar, drive: str) -> None:
    origin = _origin(part)
    there = _Unfinished.model_validate_json(origin.read_bytes()) if origin.is_file() and part.is_file() else None
    offset = part.stat().st_size if there is not None and there.address == address else 0
    try:
        stream = _open(address, offset, there.mark if there is not None and offset else None, drive)
    except _Changed:
        part.unlink()
        raise
    with closing(stream.chunks):
        if stream.start and not (there is not None and _same(stream, there)):
            part.unlink()
            raise _Changed("the file at the address has changed since its first bytes came")
        _require_space(part, wanted.name, (stream.total or 0) - stream.start)
        write_json(origin, _Unfinished(address=address, mark=stream.mark, total=stream.total).model_dump())
        bar.start(wanted.name, stream.total or 0, stream.start)
        done = stream.start
        with part.open("r+b" if stream.start else "wb") as file:
            file.seek(stream.start)
            file.truncate()
            for chunk in stream.chunks:
                if done == 0:
                    _refuse_page(chunk, wanted)
                done += file.write(chunk)
                bar.advance(len(chunk))
        if stream.total is not None and done != stream.total:
            raise _Broken(f"the transfer ended after {done} of {stream.total} bytes")


def _same(stream: _Stream, there: _Unfinished) -> bool:
    """Whether the bytes to come belong to those that are there; a server that says nothing of either gives no proof."""
    known = (stream.mark, stream.total)
    return known == (there.mark, there.total) and known != (None, None)


def _require_space(part: Path, name: str, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise ValueError(
            f"{name} needs {needed / 1e9:.2f} GB more in {part.parent}, where {free / 1e9:.2f} GB are free. Free some "
            "space, or set storage.root to a larger disk."
        )


def _refuse_page(first: bytes, wanted: Wanted) -> None:
    """Raise _Unavailable if a web page has come where a file was expected."""
    text = first[:4096].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        raise _Unavailable(_explain(first.decode("utf-8", "replace")))
    if wanted.is_zip and not first.startswith(b"PK"):
        raise _Unavailable(f"what it serves is no zip archive: it begins with {first[:16]!r}")


def _explain(page: str) -> str:
    found = _Page()
    found.feed(page)
    text = " ".join(" ".join(found.text).split())
    if any(sign in text.lower() for sign in _QUOTA):
        return (
            "its quota is used up: too many people have fetched the file today. Try again tomorrow, or use another "
            f"address. The page says: {text[:200]!r}"
        )
    return f"a web page came instead of the file: {text[:200]!r}. Is the address that of a page about the file?"


class _Page(HTMLParser):
    """The text of a web page, and the first form in it."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._hidden = tag in ("script", "style")
        if tag == "form" and self.action is None:
            self.action = given.get("action", "")
        elif tag == "input" and self.action is not None and given.get("name"):
            self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)


def _open(address: str, offset: int, mark: str | None, drive: str) -> _Stream:
    scheme = address.partition(":")[0]
    if scheme in ("http", "https"):
        return _open_http(address, {}, offset, mark)
    if scheme == "drive":
        return _open_drive(address.partition(":")[2], offset, mark, drive)
    return _open_store(address, offset)


def _open_drive(file: str, offset: int, mark: str | None, drive: str) -> _Stream:
    """Through the form that asks whether a file too large to be scanned for viruses is wanted all the same."""
    asked = {"id": file, "export": "download"}
    with requests.get(drive, params=asked, stream=True, timeout=(10, 60)) as response:
        page = _Page()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            page.feed(response.text)
    if page.action is None:
        return _open_http(drive, asked, offset, mark)
    return _open_http(urljoin(drive, page.action), page.fields, offset, mark)


def _open_http(url: str, params: dict[str, str], offset: int, mark: str | None) -> _Stream:
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if mark is not None:
            headers["If-Range"] = mark
    response = requests.get(url, params=params, headers=headers, stream=True, timeout=(10, 60))
    status = response.status_code
    length = response.headers.get("Content-Length")
    start, total = 0, int(length) if length is not None else None
    if status in (206, 416):
        answer = response.headers.get("Content-Range", "")
        span, _, whole = answer.removeprefix("bytes ").partition("/")
        total = int(whole) if whole.isdecimal() else None
        # 416: there is nothing beyond the end, which must then be where we are.
        if offset != (total if status == 416 else int(span.partition("-")[0])):
            response.close()
            raise _Changed(f"asked for the bytes from {offset} on, it answered {status} {answer!r}")
        start = offset
    elif status != 200:
        response.close()
        text = f"it answered {status} {response.reason}"
        raise _Broken(text) if status in _PASSING else _Unavailable(text)
    # A weak mark does not promise the same bytes.
    etag = response.headers.get("ETag", "")
    found = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if status == 416:  # nothing is missing, and few servers name the version with it
        found = mark
    return _Stream(start, total, found, _http_chunks(response, nothing=status == 416))


def _http_chunks(response: requests.Response, *, nothing: bool) -> Generator[bytes]:
    with response:
        if not nothing:  # the body of a 416 is a message
            yield from response.iter_content(_CHUNK)


def _open_store(address: str, offset: int) -> _Stream:
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
        info = filesystem.get_file_info(path)
        if info.type != fs.FileType.File:
            raise _Unavailable("there is no file")
        return _Stream(offset, info.size, str(info.mtime_ns), _file_chunks(filesystem.open_input_file(path), offset))
    except (OSError, pa.ArrowException) as error:
        raise _Unavailable(f"it cannot be opened ({error})") from None


def _file_chunks(file: pa.NativeFile, offset: int) -> Generator[bytes]:
    with file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            yield chunk
