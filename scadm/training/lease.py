"""One writer for a run at a time: a note in the run's folder, which its writer renews for as long as it lives.

A note says who writes. One that a dead process of this machine has left counts no more; of a process elsewhere it is
watched whether it is still renewed, so that no two clocks need to agree. Whoever writes asks first whether the note is
still its own (`require`): one that was taken for dead, and was only slow, stops then.
"""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from scadm import jobs
from scadm.files.store import Store

NAME = "writer.json"
RENEWED_EVERY = 5.0  # seconds
STALE_AFTER = 30.0  # seconds without being renewed
_SETTLED_AFTER = 1.0  # seconds: of two that write their notes at once into a remote folder, the later one holds


@dataclass(frozen=True)
class Holder:
    token: str
    host: str
    pid: int
    started: str
    """When the process began, as the system tells it: a process id is used again."""
    job: str | None
    """The submission id, where it runs as a Ray job."""
    beat: int = 0
    """How often it was renewed."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", Ray job {self.job}" if self.job else "")


class Taken(Exception):
    """The run has a writer."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


def _started(pid: int) -> str | None:
    """When a process of this machine began; empty where the system does not tell; None if it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state == "Z" else fields[18]


def _me() -> Holder:
    return Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid()) or "",
        job=jobs.submission(),
    )


def noted(run: Store) -> Holder | None:
    """Whom the run's note names, dead or alive."""
    if run.size(NAME) is None:
        return None
    try:
        return Holder(**json.loads(run.read(NAME)))
    except (FileNotFoundError, ValueError, TypeError):  # deleted meanwhile, or half of one
        return None


def living(run: Store, patience: float = STALE_AFTER) -> Holder | None:
    """Who writes the run now; None if nobody does. It may take `patience` seconds to find that out."""
    found = noted(run)
    if found is None:
        return None
    if found.host == socket.gethostname():
        return found if _started(found.pid) == found.started else None
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(1.0, patience / 10))
        now = noted(run)
        if now is None:
            return None
        if now != found:
            return now
    return None


class Lease:
    """The right to write a run, from entering to leaving.

    Entering raises Taken where the run has a living writer.
    """

    def __init__(self, run: Store) -> None:
        self.run, self.holder = run, _me()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def token(self) -> str:
        return self.holder.token

    def __enter__(self) -> Self:
        if self.run.local:
            Path(self.run.path).mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.run.path}/.{NAME}.lock") if self.run.local else nullcontext():
            if (holder := living(self.run)) is not None:
                raise Taken(holder)
            self._write()
        if not self.run.local:
            time.sleep(_SETTLED_AFTER)
        now = noted(self.run)
        if now is None or now.token != self.token:
            raise Taken(now or self.holder)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left.set()
        self._thread.join(timeout=RENEWED_EVERY)
        with suppress(OSError):
            if (now := noted(self.run)) is not None and now.token == self.token:
                self.run.delete_file(NAME)

    def _write(self) -> None:
        self.run.write(NAME, json.dumps(asdict(self.holder), indent=1).encode())

    def _renew(self) -> None:
        while not self._left.wait(RENEWED_EVERY):
            with suppress(OSError):  # an unreachable store: tried again
                now = noted(self.run)
                if now is not None and now.token != self.token:
                    return
                self.holder = replace(self.holder, beat=self.holder.beat + 1)
                self._write()


def require(run: Store, token: str | None) -> None:
    """Raise ValueError if the run's note is no longer the one with `token`. Without a token nothing is asked."""
    if token is None:
        return
    now = noted(run)
    if now is None or now.token != token:
        raise ValueError(
            f"another launch writes {run.root} now ({now or 'its note is gone'}): this one was taken for dead, and "
            "stops so that nothing is written twice. Running again attaches to the other one."
        )
