"""infra/spot_notice.sh, with a stand-in for the metadata of EC2 on this machine."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from infra_files import INFRA, drained


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service, second version: a token first, then a notice, or 404 while there is none."""

    notice: ClassVar[str | None] = None
    asked: ClassVar[int] = 0

    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/latest/api/token" else 404, "a-token")

    def do_GET(self) -> None:
        Metadata.asked += 1
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self._answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or Metadata.notice is None:
            self._answer(404, "")
        else:
            self._answer(200, Metadata.notice)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The watch at work beside a `ray` that writes down how it was called, and fails the first time."""
    Metadata.notice, Metadata.asked = None, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "ray").write_text(
        '#!/bin/bash\nprintf "%s\\n" "$RAY_ADDRESS" "$@" > "$0.$$"; mkdir "$0.busy" && exit 1; exit 0\n'
    )
    (tmp_path / "ray").chmod(0o755)
    program = subprocess.Popen(
        ["bash", str(INFRA / "spot_notice.sh")],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SPOT_METADATA": f"http://127.0.0.1:{server.server_address[1]}",
            "SPOT_POLL_S": "0.1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield program
    program.kill()
    program.wait()
    server.shutdown()


def test_a_notice_drains_the_node_with_the_time_that_is_left(watch: subprocess.Popen[str], tmp_path: Path) -> None:
    deadline = time.monotonic() + 20
    while Metadata.asked < 3:
        assert time.monotonic() < deadline and watch.poll() is None
        time.sleep(0.05)
    assert not list(tmp_path.glob("ray.*")), "nothing is drained before the notice"
    at = datetime.now(UTC) + timedelta(seconds=90)
    Metadata.notice = json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
    said, _ = watch.communicate(timeout=20)
    assert watch.returncode == 0, said
    calls = [path.read_text().splitlines() for path in tmp_path.glob("ray.[0-9]*")]
    assert len(calls) == 2, "a head that does not answer at once is asked again"
    for call in calls:
        assert call[0] == "auto", "without an address, Ray starts a node of its own and drains that"
        chosen = drained(call[1:])
        assert 80 <= chosen["deadline_remaining_seconds"] <= 90
        assert f"{at:%Y-%m-%dT%H:%M:%SZ}" in chosen["reason_message"]


@pytest.mark.parametrize("said", ['{"action": "terminate"}', '{"time": "soon"}', "<html>"])
def test_a_notice_that_cannot_be_read_ends_the_watch(watch: subprocess.Popen[str], tmp_path: Path, said: str) -> None:
    Metadata.notice = said
    log, _ = watch.communicate(timeout=20)
    assert watch.returncode == 1
    assert "no time that can be read" in log
    assert not list(tmp_path.glob("ray.*"))
