"""A guard that Python loads at its start where this folder is on PYTHONPATH: only loopback can be connected to."""

import ipaddress
import socket
from typing import Any


def _is_loopback(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class GuardedSocket(socket.socket):
    def _check(self, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise PermissionError(f"a test tried to connect to {address}, only loopback is allowed")

    def connect(self, address: Any, /) -> None:
        self._check(address)
        super().connect(address)

    def connect_ex(self, address: Any, /) -> int:
        self._check(address)
        return super().connect_ex(address)


socket.socket = GuardedSocket  # type: ignore[misc]
