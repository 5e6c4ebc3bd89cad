"""What shows whether another process sees the same place as this one: a file that it must read there.

A folder of the same name on a node's own disk takes all that is written to it, for nobody to find; and nodes join
while a stage runs. So the driver hands evidence to each worker, which looks for it before it begins.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from pyarrow import fs

from scadm.files.manifest import FILE_NAME
from scadm.files.patience import patiently
from scadm.files.store import Store
from scadm.redaction import brief

_TOKEN = ".scadm-probe-"


class Evidence(NamedTuple):
    what: str
    """What the place is for."""
    place: str
    file: str
    expected: str
    """What `found` says where the place is the same."""

    def found(self, say: Callable[[str], None] | None = None) -> str:
        """What this process finds there, or why it finds nothing; with `say`, a store that is away is waited for."""
        try:
            store = Store(self.place)
            read = partial(store.read, self.file)
            return _described(self.file, read() if say is None else patiently(store, read, say))
        except Exception as error:  # whatever the file system, the network or a missing credential does
            return f"{type(error).__name__}: {brief(error)}"


def _described(file: str, data: bytes) -> str:
    return f"{file} with sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def content(what: str, place: str) -> Evidence:
    """A finished out by its manifest, for a place that is only read. Raises ValueError where there is none."""
    try:
        data = Store(place).read(FILE_NAME)
    except OSError as error:
        raise ValueError(
            f"this process cannot read {FILE_NAME} of {what} {place} ({error}). Run `dvc repro`."
        ) from None
    return Evidence(what, place, FILE_NAME, _described(FILE_NAME, data))


@contextmanager
def token(what: str, place: str, *, sole: bool = False) -> Iterator[Evidence]:
    """A file of our own, for a place that is written to; it is there until the end. Raises ValueError where it cannot.

    Where this process is the `sole` one at work in the place, what a killed one has left is removed first.
    """
    store, name = Store(place), f"{_TOKEN}{uuid.uuid4().hex}"
    try:
        if sole:
            _drop_all(store)
        store.write(name, name.encode())
    except OSError as error:
        raise ValueError(
            f"this process cannot write to {what} {place} ({error}), so no result could be kept there. Check that "
            "the place exists and that this node may write to it (for s3://, the nodes' own AWS_* variables)."
        ) from None
    try:
        yield Evidence(what, place, name, _described(name, name.encode()))
    finally:
        with suppress(OSError):
            store.delete_file(name)


def _drop_all(store: Store) -> None:
    for info in store.filesystem.get_file_info(fs.FileSelector(store.path, allow_not_found=True)):
        if info.base_name.startswith(_TOKEN):
            store.delete_file(info.base_name)
