"""Checkpoints, written beside the training: it goes on while a thread writes, and where writing fails.

A failure is counted and said. Only one that persists ends the training: as many of a kind in a row as
`monitoring.failed_checkpoints` says, or of the final weights as many attempts over at least some minutes.
"""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from torch import Tensor

from scadm.files.checkpoint import (
    RESUMABLE,
    checkpoint_name,
    complete_steps,
    is_complete,
    prune,
    read_config,
    write_checkpoint,
)
from scadm.files.store import Store
from scadm.redaction import brief, redacted
from scadm.training.journal import Journal

BEST = "best"
"""Folder of the averaged weights with the lowest validation loss so far, in one of their step, as checkpoints are."""
FINAL = "final"

_PATIENCE = 10.0  # seconds that a checkpoint waits for the one before it
_LONGEST_PAUSE = 30.0  # seconds between two attempts at the final weights
_FINAL_PATIENCE = 600.0  # seconds at least that the final weights are attempted
_LAST_PATIENCE = 30.0  # seconds of attempts before an end that was asked for: whoever asked may soon kill the process

Groups = dict[str, dict[str, Tensor]]


def _copied(tensors: Groups) -> Groups:
    """As they are now, in this machine's memory: the training changes the ones on the device."""
    return {
        group: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for group, named in tensors.items()
    }


def _write(place: Store, tensors: Groups, config: dict[str, Any]) -> None:
    try:
        write_checkpoint(place, tensors, config)
    except OSError:
        with suppress(OSError):  # half of one is of no use, and takes the room that the next one needs
            place.delete()
        raise


class Saver:
    """Rank 0's writer of a run's checkpoints; they are written one after the other."""

    def __init__(
        self,
        run: Store,
        journal: Journal,
        *,
        keep: int,
        most_failures: int,
        require: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """`require` raises ValueError if this process must no longer write."""
        self.run, self.journal = run, journal
        self.keep, self.most_failures = keep, most_failures
        self.require, self.say = require, say
        self.failed = 0
        """Checkpoints that could not be written, over the life of this process."""
        self._in_a_row: Counter[str] = Counter()
        """By kind: that the best weights, which are smaller, can be written does not make up for a checkpoint."""
        self._reason = ""
        self._refused: Exception | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: dict[str, Future[None]] = {}
        self._lowest = self._lowest_loss()

    @property
    def failed_in_a_row(self) -> int:
        return max(self._in_a_row.values(), default=0)

    def checkpoint(self, step: int, tensors: Groups, config: dict[str, Any]) -> None:
        """Begin to write what a training resumes from. Raises ValueError where failures persist."""
        self._require_progress()
        what = f"the checkpoint of step {step}"
        if self._is_free(RESUMABLE, what):
            copied = _copied(tensors)
            self._begin(RESUMABLE, what, lambda: self._checkpoint(step, copied, config))

    def last_checkpoint(self, step: int, tensors: Groups, config: dict[str, Any]) -> None:
        """Write what a training resumes from, before a process ends that was asked to; for a while, until it works."""
        end, what = time.monotonic() + _LAST_PATIENCE, f"the checkpoint of step {step}"
        wait(self._writing.values(), _LAST_PATIENCE)
        pause = 1.0
        while True:
            try:
                self.require()
                self._checkpoint(step, tensors, config)
            except OSError as error:
                again = time.monotonic() + pause < end
                self._count(RESUMABLE, what, error, "Trying again." if again else "The one before it is the newest.")
                if not again:
                    return
                time.sleep(pause)
                pause *= 2
            else:
                self._in_a_row[RESUMABLE] = 0
                return

    def best(self, loss: float, average: dict[str, Tensor], config: dict[str, Any]) -> None:
        """Begin to write averaged weights if their validation loss is the lowest so far."""
        step = config["step"]
        what = f"the best weights, of step {step},"

        def write() -> None:
            # A step that is done again after a kill has these already: what differs is rounding.
            if not is_complete(place := self.run / BEST / checkpoint_name(step)):
                _write(place, copied, config | {"validation_loss": loss})
            self._lowest = loss
            self._tidy(lambda: self._drop_all_best_but(step))

        # Asked again after waiting for those before, which may be better.
        if loss < self._lowest and self._is_free(BEST, what) and loss < self._lowest:
            copied = _copied({"weights": average})
            self._begin(BEST, what, write)

    def final(self, average: dict[str, Tensor], config: dict[str, Any]) -> None:
        """Write the final weights, after all else. Raises ValueError if that fails again and again."""
        self.wait()
        begun = time.monotonic()
        while True:
            try:
                self.require()
                self.journal.flush()
                write_checkpoint(self.run / FINAL, {"weights": average}, config)
            except OSError as error:
                self._count(FINAL, "the final weights", error, "Trying again.")
                attempts = self._in_a_row[FINAL]
                pause = min(2.0 ** (attempts - 1), _LONGEST_PAUSE)
                if attempts >= self.most_failures and time.monotonic() + pause > begun + _FINAL_PATIENCE:
                    self._give_up()
                time.sleep(pause)
            else:
                return

    def wait(self) -> None:
        """Until nothing is being written."""
        wait(self._writing.values())

    def close(self) -> None:
        self.wait()
        self._pool.shutdown()

    def _is_free(self, kind: str, what: str) -> bool:
        """Whether none of a kind is still being written: so at most one of each is held in memory."""
        if kind in self._writing and not wait([self._writing[kind]], _PATIENCE).done:
            self._count(kind, what, TimeoutError("the one before it is still being written"), "Training goes on.")
            return False
        return True

    def _begin(self, kind: str, what: str, write: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                self.require()
                write()
            except (OSError, MemoryError) as error:
                self._count(kind, what, error, "Training goes on.")
            except Exception as error:  # nobody asks this thread how it ended: the next checkpoint raises it
                self._refused = error
            else:
                self._in_a_row[kind] = 0

        self._writing[kind] = self._pool.submit(attempt)

    def _checkpoint(self, step: int, tensors: Groups, config: dict[str, Any]) -> None:
        self.journal.flush()  # first: what a training is resumed from has the metrics of all steps before it
        _write(self.run / RESUMABLE / checkpoint_name(step), tensors, config)
        self._tidy(lambda: prune(self.run, self.keep))

    def _tidy(self, delete: Callable[[], None]) -> None:
        try:
            delete()
        except OSError as error:
            self.say(f"warning: checkpoints that are no longer needed could not be deleted ({brief(error)}).")

    def _drop_all_best_but(self, step: int) -> None:
        """Also of later steps: what a killed start of the run came to, and this one did not."""
        for name in (self.run / BEST).folders():
            if name != checkpoint_name(step):
                (self.run / BEST / name).delete()

    def _lowest_loss(self) -> float:
        """The validation loss of the best weights that an earlier start of the run has written; of two, if killed."""
        found = [float("inf")]
        for step in complete_steps(self.run, BEST):
            try:
                found.append(read_config(self.run / BEST / checkpoint_name(step))["validation_loss"])
            except ValueError as error:
                self.say(f"warning: these best weights do not count: {error}")
        return min(found)

    def _count(self, kind: str, what: str, error: Exception, then: str) -> None:
        self.failed += 1
        self._in_a_row[kind] += 1
        self._reason = brief(error)
        self.say(f"warning: {what} could not be written ({self._reason}). {then}")

    def _require_progress(self) -> None:
        if self._refused is not None:
            raise self._refused
        if self.failed_in_a_row >= self.most_failures:
            self._give_up()

    def _give_up(self) -> None:
        raise ValueError(
            f"{self.failed_in_a_row} times in a row nothing could be written to {redacted(self.run.root)}: "
            f"{self._reason}. "
            "Make room there, or make it reachable; running again goes on from the newest checkpoint that is whole. "
            "(monitoring.failed_checkpoints says how many failures end a training.)"
        )
