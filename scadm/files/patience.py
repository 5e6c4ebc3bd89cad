"""Reading from a store that is away for a while: a training of days outlives an outage of minutes."""

import time
from collections.abc import Callable
from typing import TypeVar

from scadm.files.store import Store
from scadm.redaction import redacted

SECONDS = 300.0
"""How long a store may be away."""

_LONGEST_PAUSE = 15.0  # seconds between two attempts
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FINAL_TEXTS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET")  # of S3

T = TypeVar("T")


def said_here(text: str) -> None:
    print(text, flush=True)


def patiently(store: Store, read: Callable[[], T], say: Callable[[str], None] = said_here) -> T:
    """What `read` gives of `store`. While a remote one cannot be reached, it is tried again for up to `SECONDS`.

    Raises what `read` raises: at once from a local store, and where waiting does not help.
    """
    begun, pause, told = time.monotonic(), 1.0, False
    while True:
        try:
            found = read()
        except OSError as error:
            final = isinstance(error, _FINAL) or any(text in str(error) for text in _FINAL_TEXTS)
            if store.local or final or time.monotonic() + pause > begun + SECONDS:
                raise
            if not told:
                say(f"warning: {redacted(store.root)} cannot be read ({redacted(str(error))}); trying again")
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if told:
                say(f"{redacted(store.root)} can be read again")
            return found
