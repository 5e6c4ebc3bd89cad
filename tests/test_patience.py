"""Reading from a store that is away for a while."""

from pathlib import Path

import pytest

from scadm.files import patience
from scadm.files.patience import patiently
from scadm.files.store import Store


class Away:
    """Fails as often as told, and then answers."""

    def __init__(self, error: OSError, times: int) -> None:
        self.error, self.left, self.asked = error, times, 0

    def __call__(self) -> str:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "found"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(Store, "local", False)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    return Store(str(tmp_path))


def test_a_store_that_comes_back_is_waited_for(store: Store) -> None:
    read, said = Away(OSError("AWS Error NETWORK_CONNECTION"), 4), []
    assert patiently(store, read, said.append) == "found"
    assert read.asked == 5
    assert said == [
        f"warning: {store.root} cannot be read (AWS Error NETWORK_CONNECTION); trying again",
        f"{store.root} can be read again",
    ]


def test_it_is_not_waited_for_without_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.5)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        patiently(store, Away(OSError("AWS Error NETWORK_CONNECTION"), 10**9), lambda _: None)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("no such key"), PermissionError("no"), OSError("AWS Error ACCESS_DENIED")],
)
def test_what_waiting_does_not_mend_is_said_at_once(store: Store, error: OSError) -> None:
    read = Away(error, 1)
    with pytest.raises(type(error)):
        patiently(store, read)
    assert read.asked == 1


def test_a_local_folder_does_not_come_back(tmp_path: Path) -> None:
    read = Away(OSError("Input/output error"), 1)
    with pytest.raises(OSError, match="Input/output"):
        patiently(Store(str(tmp_path)), read)
    assert read.asked == 1
