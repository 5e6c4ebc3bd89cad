"""How the bytes of an address come: over HTTP, from Google Drive, or through Arrow's filesystems."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urljoin

import pyarrow as pa
import requests
from pyarrow import fs

DRIVE = "https://drive.usercontent.google.com/download"
"""What serves the public files of Google Drive; those that it cannot scan for viruses, after a form."""

_CHUNK = 1 << 16  # what a break may lose

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that another attempt may not meet."""

_QUOTA = ("quota", "too many users have viewed or downloaded")

_SPAN = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
"""Content-Range: where the bytes begin, unless there are none, and the size of the whole, if it is known."""


class Unavailable(Exception):
    """An address does not give the file; another one may."""


class Broken(Exception):
    """The transfer ended early; another attempt may go on."""


class Changed(Broken):
    """What has arrived is no part of what is at the address now."""


@dataclass(frozen=True)
class Stream:
    start: int
    """Where in the file the chunks begin: 0 if it could not be continued."""
    total: int | None
    mark: str | None
    """Tells this version of the file from another one."""
    chunks: Iterator[bytes]
    close: Callable[[], None]
    """Ends the transfer, also one of which no chunk was taken."""


def open_stream(address: str, offset: int, mark: str | None, drive: str) -> Stream:
    """The bytes of an address from `offset` on, if it still serves the version `mark`; else from the start.

    Raises Unavailable, Broken or Changed, or what `requests` raises.
    """
    scheme = address.partition(":")[0]
    if scheme in ("http", "https"):
        return _open_http(address, {}, offset, mark)
    if scheme == "drive":
        return _open_drive(address.partition(":")[2], offset, mark, drive)
    return _open_store(address, offset)


def gather(chunks: Iterable[bytes], count: int) -> bytes:
    """The first `count` bytes, with what came beside them; fewer at the end."""
    found = b""
    for chunk in chunks:
        found += chunk
        if len(found) >= count:
            break
    return found


def _open_drive(file: str, offset: int, mark: str | None, drive: str) -> Stream:
    """Through the form that asks whether a file too large to be scanned for viruses is wanted all the same."""
    asked = {"id": file, "export": "download"}
    with requests.get(drive, params=asked, stream=True, timeout=(10, 60)) as response:
        page = _Page()
        if _is_page(response):
            page.feed(_read_page(response))
    if page.action is None:
        return _open_http(drive, asked, offset, mark)
    return _open_http(urljoin(drive, page.action), page.fields, offset, mark)


def _open_http(url: str, params: dict[str, str], offset: int, mark: str | None) -> Stream:
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if mark is not None:
            headers["If-Range"] = mark
    response = requests.get(url, params=params, headers=headers, stream=True, timeout=(10, 60))
    try:
        return _answered(response, offset, mark)
    except BaseException:
        response.close()
        raise


def _answered(response: requests.Response, offset: int, asked: str | None) -> Stream:
    """The stream of an answer to a request for the bytes from `offset` on, of the version `asked`, if there are any."""
    status = response.status_code
    page = _read_page(response) if _is_page(response) else None
    if status not in (200, 206, 416):
        if page is not None and _says_quota(_text(page)):  # under whatever status
            raise Unavailable(explain(page))
        text = f"it answered {status} {response.reason}"
        raise Broken(text) if status in _PASSING else Unavailable(text)
    if page is not None and status != 416:  # the body of a 416 is a message
        raise Unavailable(explain(page))
    # A weak mark does not promise the same bytes.
    etag = response.headers.get("ETag", "")
    mark = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if status == 200:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        return Stream(0, total, mark, response.iter_content(_CHUNK), response.close)
    answer = response.headers.get("Content-Range", "")
    span = _SPAN.fullmatch(answer)
    total = int(span[2]) if span and span[2].isdecimal() else None
    # 416: there is nothing beyond the end, which must then be where we are.
    start = total if status == 416 else int(span[1]) if span and span[1] else None
    if start != offset:
        raise Changed(f"asked for the bytes from {offset} on, it answered {status} with Content-Range {answer!r}")
    if status == 416:  # nothing is missing, and few servers name the version with it
        return Stream(offset, total, asked, iter(()), response.close)
    return Stream(offset, total, mark, response.iter_content(_CHUNK), response.close)


def _is_page(response: requests.Response) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))


def _read_page(response: requests.Response) -> str:
    return gather(response.iter_content(_CHUNK), 4 * _CHUNK).decode("utf-8", "replace")


def _open_store(address: str, offset: int) -> Stream:
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            raise Unavailable("it is a folder, expected a file: of a diffusers VQModel's folder, pack a zip")
        if info.type != fs.FileType.File:
            raise Unavailable("there is no file")
        file = filesystem.open_input_file(path)
    except (OSError, pa.ArrowException) as error:
        # What has given bytes before may do so again.
        raise (Broken if offset else Unavailable)(f"it cannot be opened ({error})") from None
    return Stream(offset, info.size, str(info.mtime_ns), _file_chunks(file, offset), file.close)


def _file_chunks(file: pa.NativeFile, offset: int) -> Iterator[bytes]:
    try:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            yield chunk
    except (OSError, pa.ArrowException) as error:
        raise Broken(f"it cannot be read on ({error})") from None


def explain(page: str) -> str:
    """Why a web page came instead of a file."""
    text = _text(page)
    if _says_quota(text):
        return (
            "its quota is used up: too many people have fetched the file today. Try again tomorrow, or use another "
            f"address. The page says: {text[:200]!r}"
        )
    return (
        f"a web page came instead of the file: {text[:200]!r}. Is the address that of a page about the file, or of a "
        "folder? Only files are fetched: of a folder, such as a diffusers VQModel's, a zip"
    )


def _text(page: str) -> str:
    found = _Page()
    found.feed(page)
    return " ".join(" ".join(found.text).split())


def _says_quota(text: str) -> bool:
    return any(sign in text.lower() for sign in _QUOTA)


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
