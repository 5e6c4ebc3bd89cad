"""Checkpoints, written beside the training: it goes on while a thread writes, and where writing fails.

A failure is counted and said. Only one that persists ends the training: as many in a row as
`monitoring.failed_checkpoints` says, or the final weights after as many attempts.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from torch import Tensor

from scadm.files.checkpoint import checkpoint_name, is_complete, prune, read_config, write_checkpoint
from scadm.files.store import Store
from scadm.training.journal import Journal

BEST = "best"
"""Folder of the averaged weights with the lowest validation loss so far."""
FINAL = "final"

_PATIENCE = 10.0  # seconds that a checkpoint waits for the one before it
_LONGEST_PAUSE = 30.0  # seconds between two attempts at the final weights

Groups = dict[str, dict[str, Tensor]]


def _copied(tensors: Groups) -> Groups:
    """As they are now, in this machine's memory: the training changes the ones on the device."""
    return {
        group: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for group, named in tensors.items()
    }


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
        self.failed_in_a_row = 0
        self._reason = ""
        self._refused: ValueError | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: dict[str, Future[None]] = {}
        self._lowest = _loss_of(run / BEST)

    def checkpoint(self, step: int, tensors: Groups, config: dict[str, Any]) -> None:
        """Begin to write what a training resumes from. Raises ValueError where failures persist."""
        what = f"the checkpoint of step {step}"
        if self._is_free("checkpoint", what):
            copied = _copied(tensors)
            self._begin("checkpoint", what, lambda: self._checkpoint(step, copied, config))
        self._require_progress()

    def best(self, loss: float, average: dict[str, Tensor], config: dict[str, Any]) -> None:
        """Begin to write averaged weights if their validation loss is the lowest so far."""
        what = f"the best weights, of step {config['step']},"
        if loss < self._lowest and self._is_free(BEST, what):
            copied = _copied({"weights": average})
            self._lowest = loss
            self._begin(
                BEST, what, lambda: write_checkpoint(self.run / BEST, copied, config | {"validation_loss": loss})
            )

    def final(self, average: dict[str, Tensor], config: dict[str, Any]) -> None:
        """Write the final weights, after all else. Raises ValueError if that fails again and again."""
        self.wait()
        for attempt in range(self.most_failures):
            try:
                self.require()
                self.journal.flush()
                write_checkpoint(self.run / FINAL, {"weights": average}, config)
                return
            except OSError as error:
                self._count("the final weights", error)
                if attempt + 1 < self.most_failures:
                    time.sleep(min(2.0**attempt, _LONGEST_PAUSE))
        self._give_up()

    def wait(self) -> None:
        """Until nothing is being written."""
        wait(self._writing.values())

    def close(self) -> None:
        self.wait()
        self._pool.shutdown()

    def _is_free(self, kind: str, what: str) -> bool:
        """Whether none of a kind is still being written: so at most one of each is held in memory."""
        if kind in self._writing and not wait([self._writing[kind]], _PATIENCE).done:
            self._count(what, TimeoutError("the one before it is still being written"))
            return False
        return True

    def _begin(self, kind: str, what: str, write: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                self.require()
                write()
            except OSError as error:
                self._count(what, error)
            except ValueError as error:
                self._refused = error
            else:
                self.failed_in_a_row = 0

        self._writing[kind] = self._pool.submit(attempt)

    def _checkpoint(self, step: int, tensors: Groups, config: dict[str, Any]) -> None:
        write_checkpoint(self.run / "checkpoints" / checkpoint_name(step), tensors, config)
        self.journal.flush()
        prune(self.run, self.keep)

    def _count(self, what: str, error: OSError) -> None:
        self.failed += 1
        self.failed_in_a_row += 1
        self._reason = str(error) or type(error).__name__
        self.say(f"warning: {what} could not be written ({self._reason}). Training goes on.")

    def _require_progress(self) -> None:
        if self._refused is not None:
            raise self._refused
        if self.failed_in_a_row >= self.most_failures:
            self._give_up()

    def _give_up(self) -> None:
        raise ValueError(
            f"{self.failed_in_a_row} times in a row nothing could be written to {self.run.root}: {self._reason}. "
            "Make room there, or make it reachable; running again goes on from the newest checkpoint that is whole. "
            "(monitoring.failed_checkpoints says how many failures end a training.)"
        )


def _loss_of(best: Store) -> float:
    """The validation loss of the best weights that an earlier start of the run has written."""
    return read_config(best)["validation_loss"] if is_complete(best) else float("inf")
