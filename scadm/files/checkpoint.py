"""Checkpoints at the storage root: `<root>/runs/<run key>/checkpoints/step-00000250/` and `.../final/`.

Safetensors and JSON only. A checkpoint counts when its manifest, written last, lists files that are all there with
their recorded sizes; loading also compares their sha256.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from safetensors.torch import load
from torch import Tensor

from scadm import faces
from scadm.files.manifest import FILE_NAME
from scadm.files.store import Store
from scadm.files.tensors import pieces

RESUMABLE = "checkpoints"
"""Folder in a run's of the checkpoints that it can be resumed from."""


def write_checkpoint(store: Store, groups: dict[str, dict[str, Tensor]], config: dict[str, Any]) -> None:
    """Write groups of tensors and a configuration, the manifest last. No more than one tensor is in memory twice."""
    described = json.dumps({"labels": faces.LABELS, **config}, indent=1, sort_keys=True).encode()
    entries = {f"{name}.safetensors": _written(store, f"{name}.safetensors", pieces(t)) for name, t in groups.items()}
    entries["config.json"] = _written(store, "config.json", [described])
    store.write(FILE_NAME, json.dumps(entries, indent=1, sort_keys=True).encode())


def _written(store: Store, name: str, given: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file from its pieces; returns what the manifest says of it."""
    hash, size = hashlib.sha256(), 0

    def seen() -> Iterator[bytes | memoryview]:
        nonlocal size
        for piece in given:
            hash.update(piece)
            size += len(piece)
            yield piece

    store.write(name, seen())
    return {"sha256": hash.hexdigest(), "bytes": size}


def copy_checkpoint(source: Store, target: Store) -> None:
    """Copy a finished checkpoint, the manifest last. Raises ValueError where a file is not what was written."""
    entries = _entries(source)
    for name in entries:
        target.write(name, _verified(source, name, entries))
    target.write(FILE_NAME, source.read(FILE_NAME))


def _entries(store: Store) -> dict[str, Any]:
    if store.size(FILE_NAME) is None:
        raise ValueError(f"{store.root} is not a finished checkpoint: it has no {FILE_NAME}.")
    return json.loads(store.read(FILE_NAME))


def _verified(store: Store, name: str, entries: dict[str, Any]) -> bytes:
    data = store.read(name)
    if (found := hashlib.sha256(data).hexdigest()) != entries[name]["sha256"]:
        raise ValueError(
            f"{store.root}/{name} has sha256 {found}, its manifest says {entries[name]['sha256']}: it was changed "
            "or damaged. Delete this checkpoint; the one before it will be used."
        )
    return data


def is_complete(store: Store) -> bool:
    """Whether the manifest is there and every file has its recorded size."""
    if store.size(FILE_NAME) is None:
        return False
    try:
        entries = json.loads(store.read(FILE_NAME))
    except json.JSONDecodeError:
        return False
    return all(store.size(name) == entry["bytes"] for name, entry in entries.items())


def read_checkpoint(store: Store, groups: list[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The named groups of tensors and the configuration. Raises ValueError where a file is not what was written."""
    entries = _entries(store)
    for name in (*(f"{group}.safetensors" for group in groups), "config.json"):
        if name not in entries:
            raise ValueError(f"{store.root} holds {sorted(entries)}, expected also {name}.")
    config = json.loads(_verified(store, "config.json", entries))
    faces.require_labels(config["labels"], f"{store.root}/config.json")
    return {group: load(_verified(store, f"{group}.safetensors", entries)) for group in groups}, config


def read_config(store: Store) -> dict[str, Any]:
    """The configuration of a finished checkpoint, without its tensors."""
    return read_checkpoint(store, [])[1]


def verify(store: Store) -> None:
    """Raise ValueError unless every file of a finished checkpoint is what was written."""
    entries = _entries(store)
    for name in entries:
        _verified(store, name, entries)


def digest_of(store: Store) -> str:
    """sha256 of a checkpoint's manifest, which names the sha256 of all its files."""
    return hashlib.sha256(store.read(FILE_NAME)).hexdigest()


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def complete_steps(run: Store, kind: str = RESUMABLE) -> list[int]:
    """Steps of a run's finished checkpoints of one kind, in increasing order."""
    return [int(n.removeprefix("step-")) for n in (run / kind).folders() if is_complete(run / kind / n)]


def prune(run: Store, keep: int) -> None:
    """Delete all but the newest `keep` finished checkpoints, and what older, unfinished ones left."""
    kept = complete_steps(run)[-keep:]
    for name in (run / RESUMABLE).folders():
        step = int(name.removeprefix("step-"))
        if kept and step < kept[0]:
            (run / RESUMABLE / name).delete()
