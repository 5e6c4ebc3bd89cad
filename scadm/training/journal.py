"""metrics.jsonl: every logged metric of a run, once, whatever happens to tracking."""

import json

from pyarrow import fs

from scadm.checkpoint import Store

NAME = "metrics.jsonl"


class Journal:
    """Appends at once to a local run folder; a remote one is written at each `flush`, that is, at each checkpoint."""

    def __init__(self, run: Store) -> None:
        self.run = run
        self.local = isinstance(run.filesystem, fs.LocalFileSystem)
        self.rows: list[dict[str, float]] = []
        if run.size(NAME):
            lines = run.read(NAME).decode().splitlines()
            # A killed writer may have left half a line at the end.
            self.rows = [json.loads(line) for line in lines if line.endswith("}")]
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
