"""metrics.jsonl: every logged metric of a run, once, whatever happens to tracking."""

import json
import os
import threading
import time
from pathlib import Path

from scadm.files.store import Store

NAME = "metrics.jsonl"

Row = dict[str, float]
"""`step`, `time` in milliseconds since 1970, and metrics by name."""

NOT_METRICS = frozenset({"step", "time"})


def read(run: Store) -> list[Row]:
    """All whole rows of a run's journal; none if it has none."""
    if not run.size(NAME):
        return []
    return [json.loads(line) for line in run.read(NAME).rpartition(b"\n")[0].splitlines()]


class Journal:
    """Appends at once to a local run folder; a remote one is written at each `flush`, that is, at each checkpoint.

    What cannot be written is kept, and written with what comes next. Rows are added by one thread; another may flush.
    """

    def __init__(self, run: Store) -> None:
        self.run = run
        if run.local and (size := run.size(NAME)):
            # A killed writer may have left half a line, which the next one must not be joined to.
            whole = run.read(NAME).rpartition(b"\n")[0]
            if size > (end := len(whole) + bool(whole)):
                os.truncate(f"{run.path}/{NAME}", end)
        self.rows = read(run)
        self.failed = 0
        self._written = len(self.rows)
        self._writing = threading.Lock()
        self._logged = {name: int(row["step"]) for row in self.rows for name in row if name not in NOT_METRICS}

    def add(self, step: int, metrics: dict[str, float]) -> Row | None:
        """Write down what is new, and return its row: after a resume, steps that were logged before are done again."""
        new = {name: value for name, value in metrics.items() if step > self._logged.get(name, -1)}
        if not new:
            return None
        self._logged.update(dict.fromkeys(new, step))
        self.rows.append({"step": step, "time": int(time.time() * 1000), **new})
        row = self.rows[-1]
        # A flush that is under way takes this row with the next one: a step never waits for a store.
        if self.run.local and self._writing.acquire(blocking=False):
            try:
                self._append()
            except OSError:  # a full disk: the training goes on
                self.failed += 1
            finally:
                self._writing.release()
        return row

    def flush(self) -> None:
        """Write what is not yet there. Raises OSError where that fails."""
        with self._writing:
            if self.run.local:
                self._append()
                self._sync()
            elif self._written < (count := len(self.rows)):
                self.run.write(NAME, _lines(self.rows[:count]))
                self._written = count

    def _sync(self) -> None:
        """To the disk, as the checkpoint that follows: a machine that goes down loses neither or both."""
        path = Path(self.run.path) / NAME
        if path.exists():
            with path.open("rb+") as file:
                os.fsync(file.fileno())

    def _append(self) -> None:
        count = len(self.rows)
        if self._written == count:
            return
        path = f"{self.run.path}/{NAME}"
        self.run.filesystem.create_dir(self.run.path, recursive=True)
        before = os.path.getsize(path) if os.path.exists(path) else 0  # noqa: PTH202, PTH110
        try:
            with open(path, "ab") as file:  # noqa: PTH123
                file.write(_lines(self.rows[self._written : count]))
        except OSError:
            os.truncate(path, before)
            raise
        self._written = count


def _lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
