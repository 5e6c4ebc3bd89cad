"""What becomes of a file at an address when writing another one in its place fails."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from scadm.files.store import Store


class Refusing:
    """A file system at an address that takes what is sent, and refuses it in the end, as a bucket over its quota."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def create_dir(self, path: str, recursive: bool) -> None: ...

    def open_output_stream(self, path: str, compression: str | None) -> Self:
        return self

    def write(self, data: memoryview) -> None: ...

    def flush(self) -> None: ...

    def delete_file(self, path: str) -> None:
        self.deleted.append(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        raise OSError("AWS Error UNKNOWN (HTTP status 507) during CompleteMultipartUpload")


@pytest.mark.parametrize(("data", "deleted"), [(b"note", []), ([b"half", b"of it"], ["folder/file"])])
def test_a_note_that_is_not_replaced_stays_and_half_of_a_large_file_goes(data: Any, deleted: list[str]) -> None:
    store, remote = Store("folder"), Refusing()
    store.filesystem = remote  # type: ignore[assignment]
    with pytest.raises(OSError, match="507"):
        store.write("file", data)
    assert remote.deleted == deleted


def test_a_local_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    def pieces() -> Any:
        yield b"half"
        raise OSError("no space left")

    store = Store(str(tmp_path))
    store.write("file", b"before")
    with pytest.raises(OSError, match="no space left"):
        store.write("file", pieces())
    assert store.read("file") == b"before" and store.files() == ["file"]
