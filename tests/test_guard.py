"""The tests' own guard: nothing but loopback can be connected to, here and in the processes that tests start."""

import os
import socket
import subprocess
import sys

import pytest
from conftest import GUARD

ELSEWHERE = ("192.0.2.1", 80)  # a documentation address, nobody's


def test_only_loopback_is_allowed_here() -> None:
    with socket.socket() as probe, pytest.raises(PermissionError, match=r"192\.0\.2\.1"):
        probe.connect(ELSEWHERE)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as probe:
        probe.connect(server.getsockname())


def test_only_loopback_is_allowed_in_subprocesses() -> None:
    code = f"import socket; socket.socket().connect({ELSEWHERE!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(GUARD)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "only loopback is allowed" in done.stderr
