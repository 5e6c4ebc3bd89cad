"""metrics.jsonl: every metric once."""

import json
import os
import threading
from pathlib import Path

import pytest

from scadm.files.store import Store
from scadm.training import curves
from scadm.training.journal import NAME, NOT_METRICS, Journal, Row


def rows(run: Path) -> list[dict[str, float]]:
    """Without their times."""
    found = [json.loads(line) for line in (run / NAME).read_text().splitlines()]
    assert all(row.pop("time") > 1e12 for row in found), "milliseconds since 1970"
    return found


def metrics(row: Row | None) -> dict[str, float]:
    return {} if row is None else {name: value for name, value in row.items() if name not in NOT_METRICS}


def test_no_step_twice_after_a_resume(tmp_path: Path) -> None:
    journal = Journal(Store(str(tmp_path)))
    for step in range(1, 5):
        assert metrics(journal.add(step, {"loss": 1 / step})) == {"loss": 1 / step}
    resumed = Journal(Store(str(tmp_path)))
    for step in range(3, 7):  # from the checkpoint of step 2
        assert bool(resumed.add(step, {"loss": 9.0})) == (step > 4)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert rows(tmp_path)[3] == {"step": 4, "loss": 0.25}


def test_rows_are_on_the_disk_before_a_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    journal = Journal(Store(str(tmp_path)))
    journal.flush()  # nothing yet
    journal.add(1, {"loss": 1.0})
    journal.flush()
    assert synced == [(tmp_path / NAME).stat().st_size]


def test_each_metric_has_its_own_last_step(tmp_path: Path) -> None:
    Journal(Store(str(tmp_path))).add(4, {"loss": 1.0})
    resumed = Journal(Store(str(tmp_path)))
    assert metrics(resumed.add(4, {"loss": 2.0, "ssim": 0.5})) == {"ssim": 0.5}
    assert curves.read(Store(str(tmp_path))).to_dict("records") == [{"step": 4, "loss": 1.0, "ssim": 0.5}]


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_half_a_line_at_the_end_is_dropped(tmp_path: Path, cut: int) -> None:
    journal = Journal(Store(str(tmp_path)))
    for step in (1, 2, 3):
        journal.add(step, {"loss": float(step)})
    text = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text(text[:-cut])
    resumed = Journal(Store(str(tmp_path)))
    for step in (2, 3, 4):
        resumed.add(step, {"loss": float(step)})
    expected = [{"step": step, "loss": float(step)} for step in (1, 2, 3, 4)]
    assert rows(tmp_path) == expected
    assert [row["step"] for row in Journal(Store(str(tmp_path))).rows] == [1, 2, 3, 4]
    assert curves.read(Store(str(tmp_path)))["step"].tolist() == [1, 2, 3, 4]


def test_a_remote_one_is_written_at_each_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "local", False)  # as an object store, which cannot append
    journal = Journal(Store(str(tmp_path)))
    journal.add(1, {"loss": 1.0})
    assert not (tmp_path / NAME).exists()
    journal.flush()
    journal.add(2, {"loss": 2.0})
    assert rows(tmp_path) == [{"step": 1, "loss": 1.0}]
    journal.flush()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_flush_that_fails_says_so(tmp_path: Path) -> None:
    journal = Journal(Store(str(tmp_path)))
    (tmp_path / NAME).mkdir()
    journal.add(1, {"loss": 1.0})
    assert journal.failed == 1
    with pytest.raises(OSError, match="directory"):
        journal.flush()
    (tmp_path / NAME).rmdir()
    journal.flush()
    assert rows(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_rows_that_are_added_while_another_thread_flushes_are_there_once_and_in_order(tmp_path: Path) -> None:
    journal, over = Journal(Store(str(tmp_path))), threading.Event()

    def flush() -> None:
        while not over.is_set():
            journal.flush()

    other = threading.Thread(target=flush)
    other.start()
    for step in range(1, 2001):
        journal.add(step, {"loss": 1.0})
    over.set()
    other.join()
    journal.flush()
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 2001))


def test_what_a_full_disk_refuses_is_written_with_what_comes_next(tmp_path: Path) -> None:
    journal = Journal(Store(str(tmp_path)))
    journal.add(1, {"loss": 1.0})
    (tmp_path / NAME).rename(tmp_path / "away")
    (tmp_path / NAME).mkdir()  # cannot be opened to append
    journal.add(2, {"loss": 2.0})
    assert journal.failed == 1
    (tmp_path / NAME).rmdir()
    (tmp_path / "away").rename(tmp_path / NAME)
    journal.add(3, {"loss": 3.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
