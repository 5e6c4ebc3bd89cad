"""metrics.jsonl: every logged metric of a run, once, whatever happens to tracking."""

import json
import os

from pyarrow import fs

from scadm.store import Store

NAME = "metrics.jsonl"


class Journal:
    """Appends at once to a local run folder; a remote one is written at each `flush`, that is, at each checkpoint."""

    def __init__(self, run: Store) -> None:
        self.run = run
        self.local = isinstance(run.filesystem, fs.LocalFileSystem)
        self.rows: list[dict[str, float]] = []
        if run.size(NAME):
            whole, newline, rest = run.read(NAME).rpartition(b"\n")
            if rest and self.local:  # a killed writer left half a line, which the next one must not be joined to
                os.truncate(f"{run.path}/{NAME}", len(whole + newline))
            self.rows = [json.loads(line) for line in whole.splitlines()]
        self._logged = {name: int(row["step"]) for row in self.rows for name in row if name != "step"}

    def add(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Write down what is new, and return it: after a resume, steps that were logged before are done again."""
        new = {name: value for name, value in metrics.items() if step > self._logged.get(name, -1)}
        if new:
            self._logged.update(dict.fromkeys(new, step))
            self.rows.append({"step": step, **new})
            if self.local:
                self.run.filesystem.create_dir(self.run.path, recursive=True)
                with self.run.filesystem.open_append_stream(f"{self.run.path}/{NAME}") as file:
                    file.write(json.dumps(self.rows[-1]).encode() + b"\n")
        return new

    def flush(self) -> None:
        if not self.local:
            self.run.write(NAME, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
