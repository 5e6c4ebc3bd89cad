"""One writer for a run at a time: who holds it, who may take it over, and who must stop."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scadm.files.store import Store
from scadm.training import lease
from scadm.training.lease import NAME, Holder, Lease, Taken, living, noted, require


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def note(run: Store, **changes: object) -> Holder:
    """A note that another process has left."""
    with Lease(run) as held:
        holder = replace(held.holder, token="another", **changes)
    run.write(NAME, json.dumps(asdict(holder)).encode())
    return holder


def test_it_is_held_from_entering_to_leaving(run: Store) -> None:
    assert living(run) is None
    with Lease(run) as held:
        holder = living(run)
        assert holder is not None and holder.pid == os.getpid()
        require(run, held.token)
        with pytest.raises(Taken, match=f"process {os.getpid()} on "), Lease(run):
            pass
        require(run, held.token)
    assert living(run) is None and noted(run) is None
    require(run, None)


def test_a_dead_process_of_this_machine_holds_nothing(run: Store) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note(run, pid=gone.pid, started="1")
    with Lease(run):
        pass


def test_a_process_id_that_is_used_again_holds_nothing(run: Store) -> None:
    note(run, pid=os.getpid(), started="1")
    assert living(run) is None


def test_a_zombie_holds_nothing(run: Store) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = lease._started(process.pid)
        note(run, pid=process.pid, started=started)
        assert living(run) is not None
        process.kill()
        while (state := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z":
            assert state in "RSD"
        assert living(run) is None


def test_a_process_elsewhere_lives_while_it_renews_its_note(run: Store) -> None:
    holder = note(run, host="elsewhere")
    assert living(run, patience=0.3) is None, "not renewed for that long"

    def renew() -> None:
        time.sleep(0.2)
        run.write(NAME, json.dumps(asdict(replace(holder, beat=1))).encode())

    threading.Thread(target=renew).start()
    found = living(run, patience=30)
    assert found is not None and (found.host, found.beat) == ("elsewhere", 1)


def test_a_note_is_renewed(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)
    with Lease(run):
        end = time.monotonic() + 30
        while (found := noted(run)) is None or found.beat < 3:
            assert time.monotonic() < end
    assert noted(run) is None


def test_who_was_taken_for_dead_stops_and_leaves_the_other_s_note(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)
    with Lease(run) as slow:
        other = replace(slow.holder, token="another", pid=1)
        run.write(NAME, json.dumps(asdict(other)).encode())
        slow._thread.join(timeout=30)
        assert not slow._thread.is_alive(), "it renews no longer"
        with pytest.raises(ValueError, match=r"another launch writes .*run now \(process 1 on .*taken for dead"):
            require(run, slow.token)
    assert noted(run) == other


def test_of_two_that_begin_at_once_one_holds(run: Store) -> None:
    got: list[str] = []
    start = threading.Barrier(4)
    release = threading.Event()

    def enter() -> None:
        start.wait()
        try:
            with Lease(run) as held:
                got.append(held.token)
                release.wait(30)
        except Taken:
            got.append("taken")
            if got.count("taken") == 3:
                release.set()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(got) == 4 and got.count("taken") == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}'])
def test_half_a_note_names_nobody(run: Store, content: bytes) -> None:
    run.write(NAME, content)
    assert noted(run) is None
    with Lease(run):
        pass
