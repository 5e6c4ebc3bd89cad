"""Waiting for a run that another process trains."""

import time
from collections.abc import Callable

from scadm.files.store import Store
from scadm.progress import bar
from scadm.training import journal, lease
from scadm.training.lease import Holder

_EVERY, _EVERY_REMOTE = 1.0, 10.0  # seconds; a store at an address is asked for the whole journal each time


def attend(run: Store, holder: Holder, steps: int, say: Callable[[str], None]) -> None:
    """Show the run's progress until its writer has ended, however it ends. Ctrl-C leaves the other process alone."""
    say(f"{holder} trains this run already; waiting for its end (Ctrl-C leaves it alone)")
    with bar(steps, "training elsewhere", "steps") as progress:
        while lease.living(run) is not None:
            rows = journal.read(run)
            if rows:
                progress.update(rows[-1]["step"] - progress.n)
            time.sleep(_EVERY if run.local else _EVERY_REMOTE)
