"""A guard that Python loads at its start where this folder is on PYTHONPATH: nothing leaves this machine."""

import ipaddress
import socket
from typing import Any


def _stays_here(host: str) -> bool:
    """Loopback, or an address of this machine's own: the kernel sends both through the loopback device.

    Ray's agents call one another by such an address. Only an address of this machine can be bound to.
    """
    if host in ("localhost", ""):
        return True
    try:
        if ipaddress.ip_address(host).is_loopback:
            return True
        with _Socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True


_Socket = socket.socket


class GuardedSocket(_Socket):
    def _check(self, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _stays_here(address[0]):
            raise PermissionError(f"a test tried to connect to {address}, only loopback is allowed")

    def connect(self, address: Any, /) -> None:
        self._check(address)
        super().connect(address)

    def connect_ex(self, address: Any, /) -> int:
        self._check(address)
        return super().connect_ex(address)


socket.socket = GuardedSocket  # type: ignore[misc]
