"""Whether a run folder that is named by hand holds the training that is asked for now.

A stage names its folder by the parameters, so that there is never a question.
"""

import json
from pathlib import Path

from scadm.config import Params, flatten
from scadm.files.manifest import Manifest, write_json

NAME = "job.json"


def require_same_training(run: Path, params: Params, data: Manifest, initial: str | None) -> None:
    """Note in the run's folder what is trained there, if it is new. Raises ValueError if it was something else.

    `initial` is the digest of the checkpoint that it starts from.
    """
    tree = params.model_dump(mode="json")
    now = flatten({name: tree[name] for name in ("model", "diffusion", "training")})
    now |= {"shards": data.digest, "initial weights": str(initial)}
    note = run / NAME
    if not note.exists():
        write_json(note, now)
        return
    before = json.loads(note.read_text())
    changed = [
        f"{key} {before.get(key)}, now {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"{run} holds another training: {'; '.join(changed)}. Expected the same throughout a run. Name another "
            "folder, or set these back."
        )
