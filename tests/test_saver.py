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
    monkeypatch.setattr(module, "_FINAL_PATIENCE", 0.0)
    monkeypatch.setattr(module, "_LAST_PATIENCE", 2.5)
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
    assert complete_steps(saver.run, BEST) == [2]
    tensors, config = read_checkpoint(Store(f"{tmp_path}/{BEST}/step-00000002"), ["weights"])
    assert tensors["weights"]["w"] == 2 and config["step"] == 2 and config["validation_loss"] == 1.0
    again = Saver(saver.run, saver.journal, keep=2, most_failures=3, require=lambda: None, say=print)
    again.best(1.5, {"w": torch.tensor(9.0)}, {"step": 9})
    again.close()
    assert complete_steps(saver.run, BEST) == [2]


def test_the_best_weights_are_those_of_the_lowest_loss_also_where_a_killed_start_went_further(saver: Saver) -> None:
    saver.best(2.0, {"w": torch.tensor(1.0)}, {"step": 9})
    saver.wait()
    again = Saver(saver.run, saver.journal, keep=2, most_failures=3, require=lambda: None, say=print)
    again.best(1.0, {"w": torch.tensor(2.0)}, {"step": 6})
    again.close()
    assert complete_steps(saver.run, BEST) == [6]


def test_the_best_weights_of_a_step_that_is_done_again_stay(saver: Saver, disk: Disk) -> None:
    saver.best(1.0, {"w": torch.tensor(1.0)}, {"step": 3})
    saver.wait()
    disk.full = True  # whoever wrote into their folder would fail, and leave less than there was
    again = Saver(saver.run, saver.journal, keep=2, most_failures=3, require=lambda: None, say=print)
    again.best(1.0 - 1e-7, {"w": torch.tensor(1.0)}, {"step": 3})
    again.close()
    assert again.failed == 0 and complete_steps(saver.run, BEST) == [3]


def test_better_weights_that_could_not_be_written_are_not_the_best(saver: Saver, disk: Disk) -> None:
    disk.full = True
    saver.best(1.0, {"w": torch.tensor(1.0)}, {"step": 1})
    saver.wait()
    assert (saver.run / BEST).folders() == []
    disk.full = False
    saver.best(2.0, {"w": torch.tensor(2.0)}, {"step": 2})
    saver.wait()
    assert complete_steps(saver.run, BEST) == [2]


def test_damaged_best_weights_do_not_keep_a_run_from_being_resumed(saver: Saver, said: list[str]) -> None:
    saver.best(1.0, {"w": torch.tensor(1.0)}, {"step": 1})
    saver.wait()
    config = Path(saver.run.root) / BEST / "step-00000001" / "config.json"
    config.write_text(config.read_text().replace("1.0", "2.0"))
    again = Saver(saver.run, saver.journal, keep=2, most_failures=3, require=lambda: None, say=said.append)
    assert "these best weights do not count" in said[0] and "it was changed or damaged" in said[0]
    again.best(5.0, {"w": torch.tensor(2.0)}, {"step": 2})
    again.close()
    assert complete_steps(saver.run, BEST) == [2]


def test_a_full_disk_is_counted_and_said_and_training_goes_on(saver: Saver, disk: Disk, said: list[str]) -> None:
    saver.checkpoint(1, group(1), CONFIG)
    saver.wait()
    disk.full = True
    saver.checkpoint(2, group(2), CONFIG)
    saver.wait()
    saver.best(1.0, {"w": torch.tensor(1.0)}, CONFIG)
    saver.wait()
    assert (saver.failed, saver.failed_in_a_row) == (2, 1), "one of each kind"
    assert (
        "the checkpoint of step 2 could not be written ([Errno 28] No space left on device). Training goes" in said[0]
    )
    assert complete_steps(saver.run) == [1]
    disk.full = False
    saver.checkpoint(3, group(3), CONFIG)
    saver.wait()
    saver.best(1.0, {"w": torch.tensor(1.0)}, CONFIG)
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


def test_a_lack_of_memory_is_a_failure_and_what_nobody_foresaw_ends_the_training(
    saver: Saver, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([MemoryError(), RuntimeError("a fault of the code")])

    def fails(*_: Any) -> None:
        raise next(errors)

    monkeypatch.setattr(module, "write_checkpoint", fails)
    for step in (1, 2):
        saver.checkpoint(step, group(step), CONFIG)
        saver.wait()
    assert saver.failed == 1 and "the checkpoint of step 1 could not be written" in said[0]
    with pytest.raises(RuntimeError, match="a fault of the code"):
        saver.checkpoint(3, group(3), CONFIG)


def test_checkpoints_that_never_fit_end_the_training_though_smaller_weights_do(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write

    def nearly_full(store: Store, name: str, data: bytes) -> None:
        if name == "average.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(store, name, data)

    monkeypatch.setattr(Store, "write", nearly_full)
    with pytest.raises(ValueError, match="3 times in a row nothing could be written"):
        for step in range(1, 6):
            saver.checkpoint(step, group(step) | {"average": {"w": torch.ones(3)}}, CONFIG)
            saver.best(1 / step, {"w": torch.ones(3)}, {"step": step})
            saver.wait()
    assert saver.failed == 3 and complete_steps(saver.run, BEST) == [3]
    assert (saver.run / "checkpoints").folders() == [], "what is unfinished takes no room"


def test_before_an_end_that_was_asked_for_a_checkpoint_is_tried_again(
    saver: Saver, disk: Disk, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(_: float) -> None:
        disk.full = False

    monkeypatch.setattr(module.time, "sleep", free)
    disk.full = True
    saver.last_checkpoint(4, group(4), CONFIG)
    assert complete_steps(saver.run) == [4] and saver.failed_in_a_row == 0
    assert said == [
        "warning: the checkpoint of step 4 could not be written ([Errno 28] No space left on device). Trying again."
    ]


def test_an_end_that_was_asked_for_is_not_put_off_for_ever(saver: Saver, disk: Disk, said: list[str]) -> None:
    disk.full = True
    saver.last_checkpoint(4, group(4), CONFIG)
    assert complete_steps(saver.run) == [] and said[-1].endswith("The one before it is the newest.")


def test_a_resumable_step_has_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr(Store, "local", False)
    run = Store(str(tmp_path))
    saver = Saver(run, Journal(run), keep=2, most_failures=3, require=lambda: None, say=print)
    saver.journal.add(1, {"loss": 1.0})
    disk.open.clear()
    saver.checkpoint(1, group(1), CONFIG)
    disk.full = True  # before the first byte
    disk.open.set()
    saver.wait()
    assert complete_steps(run) == [] and Journal(run).rows == []
    disk.full = False
    saver.checkpoint(2, group(2), CONFIG)
    saver.close()
    assert complete_steps(run) == [2] and [row["step"] for row in Journal(run).rows] == [1]


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
