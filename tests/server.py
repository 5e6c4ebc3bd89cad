"""A file server on this machine that can be told to misbehave, and Google Drive's two pages before a file."""

import io
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

FORM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="/confirmed" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="{uuid}"></form></body></html>"""
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title><style>p {color: red}</style></head>
<body><p>Sorry, you can't view or download this file at this time. Too many users have viewed or downloaded this file
recently.</p></body></html>"""


def archive() -> bytes:
    """A zip of 3 MB, so that it comes in several chunks."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("noise", np.random.default_rng(0).bytes(3_000_000))
    return file.getvalue()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = archive()
        self.etag: str | None = '"one"'
        self.ranges = True
        self.announced: int | None = None
        """Content-Length, if not the truth."""
        self.break_after: list[int] = []
        """For each request still to come, the bytes after which the connection ends."""
        self.answers: list[int] = []
        """Status of each request still to come, instead of the file."""
        self.page: str | None = None
        self.page_status = 200
        self.content_type: str | None = None
        """Of the file."""
        self.content_range: str | None = None
        """Content-Range of a 206, if not the truth; empty: none."""
        self.piece: int | None = None
        """Throttled: bytes sent at a time, with `pause` seconds between."""
        self.pause = 0.0
        self.chunked = False
        """Whether each piece is a chunk of an answer whose length is not announced."""
        self.asked: list[str | None] = []
        """The Range header of each request for the file."""

    @property
    def address(self) -> str:
        return "http://{}:{}".format(*self.server_address[:2])


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/download" and "confirm" not in asked:
            self._page(FORM.format(id=asked["id"], uuid="4-2"))
        elif url.path == "/confirmed" and asked != {"id": "FILE", "confirm": "t", "uuid": "4-2"}:
            self._page("<html>no</html>")
        elif url.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.server.page is not None:
            self._page(self.server.page, self.server.page_status)
        elif self.server.answers:
            self.send_response(self.server.answers.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._file()

    def _page(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _file(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start, size = 0, len(server.content)
        if wanted and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            truth = f"bytes {start}-{size - 1}/{server.announced or size}"
            if said := truth if server.content_range is None else server.content_range:
                self.send_header("Content-Range", said)
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.content_type:
            self.send_header("Content-Type", server.content_type)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str((server.announced or size) - start))
        self.end_headers()
        stop = start + server.break_after.pop(0) if server.break_after else size
        self._send(server.content[start:stop], whole=stop >= size)
        self.close_connection = True

    def _send(self, content: bytes, *, whole: bool) -> None:
        server = self.server
        piece = server.piece or max(len(content), 1)
        for first in range(0, len(content), piece):
            sent = content[first : first + piece]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if server.chunked else sent)
            if server.piece is not None:
                time.sleep(server.pause)
        if server.chunked and whole:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()
