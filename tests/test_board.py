"""What the driver's terminal shows of a training that runs elsewhere.

The actor is of this process: what it would answer, one look after the other, is written down here.
"""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from scadm.cluster import board
from scadm.cluster.board import State
from scadm.stopping import Stop


class Looks:
    """A board's handle, which has another state at each look; the training is over before the last one."""

    def __init__(self, ended: threading.Event, *states: State | Exception) -> None:
        self.ended, self.states, self.stops = ended, list(states), 0
        self._end_before_the_last()
        self.read = SimpleNamespace(remote=self._read)
        self.stop = SimpleNamespace(remote=self._stop)

    def _read(self, lines_seen: int) -> State:
        state = self.states.pop(0)
        self._end_before_the_last()
        if isinstance(state, Exception):
            raise state
        return state._replace(lines=state.lines[lines_seen:])

    def _stop(self) -> None:
        self.stops += 1

    def _end_before_the_last(self) -> None:
        if len(self.states) == 1:
            self.ended.set()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Standard output and standard error of a training of these states, off a terminal; and its board."""
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    monkeypatch.setattr(board, "_EVERY", 0.01)

    def show(*states: State | Exception, stop: Stop | None = None) -> tuple[str, str, Looks]:
        ended = threading.Event()
        looks = Looks(ended, *states)
        board._show(looks, "training", stop or Stop(), ended)
        said = capsys.readouterr()
        return said.out, said.err, looks

    return show


def test_each_note_is_printed_once_and_in_order_also_what_was_said_last(shown: Any) -> None:
    failed = (
        "[train] warning: the checkpoint of step 3 could not be written (No space left on device). Training goes on."
    )
    out, _, _ = shown(
        State(0, 0, "", []),
        State(8, 3, "loss 0.900, 5 images/s", [failed]),
        State(8, 4, "loss 0.900, 5 images/s", [failed]),
        State(8, 8, "loss 0.800, 5 images/s", [failed, "[train] a second", "[train] a third"]),
    )
    assert out.splitlines() == [failed, "[train] a second", "[train] a third"]


def test_off_a_terminal_the_last_progress_is_one_line_with_what_failed(shown: Any) -> None:
    states = [State(8, done, f"loss 0.{90 - done}, 5 images/s, 2 checkpoints failed", []) for done in range(9)]
    out, err, _ = shown(*states)
    assert out == "", "progress is no output"
    last = err.rstrip("\n").rpartition("\r")[2]
    assert last.startswith("training: 100%") and "8/8" in last
    assert "loss 0.82" in last and "2 checkpoints failed" in last
    assert err.count("training:") <= 3, "it is not redrawn at every look"


def test_progress_goes_back_where_a_training_does(shown: Any) -> None:
    _, err, _ = shown(State(8, 7, "", []), State(8, 3, "", []), State(8, 4, "", []))
    assert "4/8" in err.rpartition("\r")[2]


def test_a_training_that_never_began_shows_no_progress(shown: Any) -> None:
    out, err, _ = shown(State(0, 0, "", ["[train] waiting for a machine"]))
    assert (out, err) == ("[train] waiting for a machine\n", "")


def test_the_wish_to_stop_is_passed_on_once(shown: Any) -> None:
    states = [State(8, done, "", []) for done in range(3)]
    assert shown(*states)[2].stops == 0
    stop = Stop()
    stop.asked.set()
    assert shown(*states, stop=stop)[2].stops == 1


def test_a_board_that_is_lost_ends_the_show_and_nothing_else(shown: Any) -> None:
    out, err, _ = shown(State(8, 3, "", ["[train] said"]), RayActorError(), State(8, 8, "", ["[train] said", "never"]))
    assert out == "[train] said\n"
    assert "3/8" in err


def test_an_answer_that_is_late_ends_neither_the_bar_nor_the_wish_to_stop(shown: Any) -> None:
    late, stop = GetTimeoutError("a busy machine"), Stop()
    stop.asked.set()
    out, err, looks = shown(late, State(8, 3, "", ["[train] a note"]), late, State(8, 5, "", []), late, stop=stop)
    assert out == "[train] a note\n" and "5/8" in err and looks.stops == 1
