"""Checkpoints beside the training: what is kept, and what becomes of writing that fails."""

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scadm.files.checkpoint import complete_steps, is_complete, read_checkpoint
from scadm.files.store import Store
from scadm.training import saver as module
from scadm.training.journal import Journal
from scadm.training.saver import BEST, FINAL, Saver

CONFIG: dict[str, Any] = {"step": 1}


class Disk:
    """Between the saver and its folder: refuses, or waits, as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.open = threading.Event()
        self.open.set()
        write = Store.write

        def through(store: Store, name: str, data: bytes) -> None:
            self.open.wait(60)
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(store, name, data)

        monkeypatch.setattr(Store, "write", through)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.0)
    return Disk(monkeypatch)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def saver(tmp_path: Path, said: list[str]) -> Iterator[Saver]:
    run = Store(str(tmp_path))
    made = Saver(run, Journal(run), keep=2, most_failures=3, require=lambda: None, say=said.append)
    yield made
    made.close()


def group(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((3,), value)}}


def test_what_is_written_is_what_was_there_then(saver: Saver, disk: Disk, tmp_path: Path) -> None:
    tensors = group(1.0)
    disk.open.clear()
    saver.checkpoint(1, tensors, CONFIG)
    tensors["model"]["w"].fill_(2.0)  # the training goes on meanwhile
    assert complete_steps(saver.run) == []
    disk.open.set()
    saver.wait()
    kept, _ = read_checkpoint(Store(f"{tmp_path}/checkpoints/step-00000001"), ["model"])
    assert kept["model"]["w"].tolist() == [1.0, 1.0, 1.0]


def test_the_newest_are_kept(saver: Saver) -> None:
    for step in range(1, 6):
        saver.checkpoint(step, group(step), CONFIG)
    saver.wait()
    assert complete_steps(saver.run) == [4, 5]


def test_the_best_weights_are_kept_also_over_a_restart(saver: Saver, tmp_path: Path) -> None:
    for step, loss in enumerate([3.0, 1.0, 2.0], start=1):
        saver.best(loss, {"w": torch.tensor(float(step))}, {"step": step})
        saver.wait()
    tensors, config = read_checkpoint(Store(f"{tmp_path}/{BEST}"), ["weights"])
    assert tensors["weights"]["w"] == 2 and config["step"] == 2 and config["validation_loss"] == 1.0
    again = Saver(saver.run, saver.journal, keep=2, most_failures=3, require=lambda: None, say=print)
    again.best(1.5, {"w": torch.tensor(9.0)}, {"step": 9})
    again.close()
    assert read_checkpoint(Store(f"{tmp_path}/{BEST}"), [])[1]["step"] == 2


def test_a_full_disk_is_counted_and_said_and_training_goes_on(saver: Saver, disk: Disk, said: list[str]) -> None:
    saver.checkpoint(1, group(1), CONFIG)
    saver.wait()
    disk.full = True
    saver.checkpoint(2, group(2), CONFIG)
    saver.wait()
    saver.best(1.0, {"w": torch.tensor(1.0)}, CONFIG)
    saver.wait()
    assert saver.failed == saver.failed_in_a_row == 2
    assert (
        "the checkpoint of step 2 could not be written ([Errno 28] No space left on device). Training goes" in said[0]
    )
    assert complete_steps(saver.run) == [1]
    disk.full = False
    saver.checkpoint(3, group(3), CONFIG)
    saver.wait()
    assert (saver.failed, saver.failed_in_a_row) == (2, 0)
    saver.final({"w": torch.tensor(1.0)}, CONFIG)
    assert is_complete(saver.run / FINAL)


def test_failures_that_persist_end_the_training(saver: Saver, disk: Disk) -> None:
    disk.full = True
    saver.checkpoint(1, group(1), CONFIG)
    saver.wait()
    saver.checkpoint(2, group(2), CONFIG)
    saver.wait()
    with pytest.raises(ValueError, match=r"3 times in a row nothing could be written to .*No space left.*Make room"):
        saver.checkpoint(3, group(3), CONFIG)
        saver.wait()
        saver.checkpoint(4, group(4), CONFIG)


def test_the_final_weights_are_tried_again_and_then_refused(saver: Saver, disk: Disk, said: list[str]) -> None:
    disk.full = True
    with pytest.raises(ValueError, match=r"3 times in a row .*running again goes on from the newest checkpoint"):
        saver.final({"w": torch.tensor(1.0)}, CONFIG)
    assert len(said) == 3 and not is_complete(saver.run / FINAL)


def test_a_store_that_hangs_does_not_stop_the_training(saver: Saver, disk: Disk, said: list[str]) -> None:
    disk.open.clear()
    saver.checkpoint(1, group(1), CONFIG)
    saver.checkpoint(2, group(2), CONFIG)
    assert "the checkpoint of step 2 could not be written (the one before it is still being written)" in said[0]
    disk.open.set()
    saver.wait()
    saver.checkpoint(3, group(3), CONFIG)
    saver.wait()
    assert complete_steps(saver.run) == [1, 3]


def test_who_must_no_longer_write_is_refused(tmp_path: Path) -> None:
    def lost() -> None:
        raise ValueError("another launch writes")

    run = Store(str(tmp_path))
    saver = Saver(run, Journal(run), keep=2, most_failures=3, require=lost, say=print)
    with pytest.raises(ValueError, match="another launch writes"):
        saver.checkpoint(1, group(1), CONFIG)
        saver.wait()
        saver.checkpoint(2, group(2), CONFIG)
    with pytest.raises(ValueError, match="another launch writes"):
        saver.final({"w": torch.tensor(1.0)}, CONFIG)
    assert complete_steps(run) == [] and not is_complete(run / FINAL)
    saver.close()
