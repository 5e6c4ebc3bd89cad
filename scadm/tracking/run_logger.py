"""What a training writes into its MLflow run: by one thread, in order, each step once, also after the store was away.

The run's journal (`metrics.jsonl`) is the truth. What MLflow lacks of it, because the store or this process went away,
is found by comparing the two, metric by metric. A call that failed may have been carried out all the same: it is
repeated with the same times, and a store keeps one of two equal rows.
"""

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from scadm.redaction import brief, redacted
from scadm.tracking.runs import SENT_LATER
from scadm.tracking.store import Tracked, asking, impatient, warn

METRICS_PER_CALL = 1000
"""MLflow's own limit."""

_EVERY = 5.0  # seconds until more is sent, once nothing waits: a call takes the training's processor for about 0.1 s
_PAUSE = 5.0  # seconds after a call that failed
_TRIES = 5  # of a picture, while metrics get through
_PICTURES = 20  # that wait at a time: some megabytes each
_CLOSING = 30.0  # seconds

Row = Mapping[str, float]
"""A line of the journal: `step`, metrics by name, and perhaps `time`, in milliseconds since 1970."""

_NOT_METRICS = ("step", "time")


@dataclass(frozen=True)
class _Metrics:
    rows: Sequence[Metric]


@dataclass(frozen=True)
class _Journal:
    rows: Sequence[Row]
    at: int


@dataclass
class _Picture:
    step: int
    name: str
    image: NDArray[np.uint8]
    at: int
    failures: int = 0
    failed_at: int = -1
    """How many calls with metrics had succeeded when it failed last."""


def _now() -> int:
    return int(time.time() * 1000)


def said_here(text: str) -> None:
    print(text, flush=True)


def _missing(client: MlflowClient, run_id: str, rows: Iterable[Row], at: int) -> list[list[Metric]]:
    """Of each row, the metrics of which the run has no value at that step; rows that are there are left out."""
    has: dict[str, set[int]] = {}
    found = []
    for row in rows:
        step, when = int(row["step"]), int(row.get("time", at))
        lacking = []
        for name, value in row.items():
            if name in _NOT_METRICS:
                continue
            if name not in has:
                has[name] = {metric.step for metric in client.get_metric_history(run_id, name)}
            if step not in has[name]:
                lacking.append(Metric(name, value, when, step))
        if lacking:
            found.append(lacking)
    return found


def _send_missing(client: MlflowClient, run_id: str, rows: Iterable[Row], at: int) -> int:
    """Send what MLflow lacks of the journal; in how many rows something was lacking."""
    lacking = _missing(client, run_id, rows, at)
    metrics = [metric for row in lacking for metric in row]
    for i in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[i : i + METRICS_PER_CALL])
    return len(lacking)


def replay(tracked: Tracked, rows: Iterable[Row]) -> int:
    """Send what MLflow lacks of a run's journal; the number of rows sent. A store that fails costs a warning."""
    try:
        with asking():
            return _send_missing(MlflowClient(tracked.uri), tracked.run_id, rows, _now())
    except Exception as error:  # whatever the store, the network or the server did: the training matters more
        warn(tracked, error, f"Not all of the metrics are there yet. {SENT_LATER}")
        return 0


class RunLogger:
    """Writes into an MLflow run by a thread of its own; nothing here raises or waits, except `flush` and `close`.

    `say` gets what is said, once when calls begin to fail and once when they succeed again.
    """

    def __init__(
        self,
        tracked: Tracked,
        say: Callable[[str], None] = said_here,
        every: float = _EVERY,
        pause: float = _PAUSE,
        repeats: bool = True,
    ) -> None:
        """`repeats`: steps may come that the run has already; they are left out."""
        self.tracked = tracked
        self.failures = 0
        """Calls that failed."""
        self.lost = 0
        """Pictures that were given up."""
        self._say, self._every, self._pause, self._repeats = say, every, pause, repeats
        self._metrics: deque[_Metrics | _Journal] = deque()
        self._pictures: deque[_Picture] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._next_call = -math.inf
        """When the next call may be made, on the monotonic clock, if nobody waits for it."""
        self._hurried = 0
        """How many wait in `flush`."""
        self._end: float | None = None
        """When to give up, on the monotonic clock; None while it goes on."""
        self._calls = 0
        """Calls with metrics that succeeded."""
        self._away = 0
        """Calls with metrics that failed since the last one that succeeded."""
        self._late = 0
        """Rows sent since it answers again."""
        self._picture_failed = False
        self._client: MlflowClient | None = None
        self._shown: set[tuple[str, int]] | None = None
        self._known: dict[str, set[int]] = {}
        """Steps by metric that the run had before this logger sent any: see `_new`."""

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Rows that are not sent yet; those of a journal count as one until they were compared."""
        return len(self._metrics)

    def catch_up(self, rows: Iterable[Row]) -> None:
        """Send what MLflow lacks of the journal as it is now. Before anything else is logged."""
        self._put(_Journal([dict(row) for row in rows], _now()))

    def log(self, step: int, metrics: Mapping[str, float], at: int | None = None) -> None:
        """Metrics of a step; `at` is their time in milliseconds since 1970, as in the journal, or now."""
        when = _now() if at is None else at
        self._put(_Metrics([Metric(name, float(value), when, step) for name, value in metrics.items()]))

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """A picture of a step; of a step that has one already, it is left out."""
        self._put(_Picture(step, name, image.copy(), _now()))

    def flush(self, timeout: float) -> bool:
        """Wait until all is sent; False where it is not, after `timeout` seconds."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not (self._metrics or self._pictures or self._busy), timeout)
            finally:
                self._hurried -= 1

    def close(self, timeout: float = _CLOSING) -> int:
        """Send what waits, in at most `timeout` seconds, and end; the number of rows and pictures left behind."""
        with self._changed:
            self._end = time.monotonic() + timeout
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None
        left = len(self._metrics) + len(self._pictures)
        if self._metrics:
            self._tell(
                f"warning: {len(self._metrics)} rows of metrics are not in MLflow at {self._where}. {SENT_LATER}"
            )
        if lost := self.lost + len(self._pictures):
            self._tell(f"warning: {lost} pictures are not in MLflow at {self._where}, and not kept elsewhere.")
        self._metrics.clear()
        self._pictures.clear()
        return left

    @property
    def _where(self) -> str:
        return redacted(self.tracked.uri)

    def _put(self, item: _Metrics | _Journal | _Picture) -> None:
        with self._changed:
            if isinstance(item, _Picture):
                self._pictures.append(item)
                if len(self._pictures) > _PICTURES:
                    self._pictures.popleft()
                    self.lost += 1
            else:
                self._metrics.append(item)
            if self._thread is None and self._end is None:
                self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    # --- in the thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        with impatient():
            while self._wait():
                metrics = bool(self._metrics)  # more may come meanwhile: which of the two failed?
                try:
                    with asking():
                        client = self._client = self._client or MlflowClient(self.tracked.uri)
                        if metrics:
                            self._send_metrics(client)
                        elif self._pictures:
                            self._send_picture(client, self._pictures[0])
                except Exception as error:  # whatever the store, the network or the server did
                    self._client = self._shown = None
                    self.failures += 1
                    if metrics:
                        self._count(error)
                    elif not self._picture_failed:
                        self._picture_failed = True
                        self._tell(f"warning: MLflow at {self._where} did not take a picture: {brief(error)}.")
                    self._rest()
                else:
                    if not (self._metrics or self._pictures):  # a picture is a call of its own
                        self._next_call = time.monotonic() + self._every
                finally:
                    with self._changed:
                        self._busy = False
                        self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait for something to send, and for more that the same call can take; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._metrics or self._pictures or self._end is not None)
            if (rest := self._next_call - time.monotonic()) > 0:
                self._changed.wait_for(lambda: self._hurried or self._end is not None, rest)
            over = self._end is not None and time.monotonic() >= self._end
            self._busy = bool(self._metrics or self._pictures) and not over
            return self._busy

    def _send_metrics(self, client: MlflowClient) -> None:
        """What is first in the queue, as much of it as one call takes; it leaves the queue when it was sent."""
        first = self._metrics[0]
        if isinstance(first, _Journal):
            taken, sent = 1, _send_missing(client, self.tracked.run_id, first.rows, first.at)
        else:
            batch: list[Metric] = []
            taken = sent = 0
            for item in list(self._metrics):
                if isinstance(item, _Journal) or (taken and len(batch) + len(item.rows) > METRICS_PER_CALL):
                    break
                batch += self._new(client, item.rows)
                taken = sent = taken + 1
            if batch:
                client.log_batch(self.tracked.run_id, metrics=batch)
        with self._changed:
            for _ in range(min(taken, len(self._metrics))):
                self._metrics.popleft()
        self._calls += 1
        if self._away:
            self._late += sent
            if not self._metrics:
                self._tell(
                    f"MLflow at {self._where} answers again, after {self._away} failed calls: {self._late} rows that "
                    "had waited were sent."
                )
                self._away = self._late = 0

    def _new(self, client: MlflowClient, metrics: Sequence[Metric]) -> list[Metric]:
        """Those of a step that the run did not have when this logger came to the metric.

        A remote journal is written with each checkpoint, so after a kill it lacks steps that were sent; they are done
        again, and would be there twice, at two times.
        """
        for metric in metrics:
            if self._repeats and metric.key not in self._known:
                history = client.get_metric_history(self.tracked.run_id, metric.key)
                self._known[metric.key] = {found.step for found in history}
        return [metric for metric in metrics if metric.step not in self._known.get(metric.key, ())]

    def _send_picture(self, client: MlflowClient, picture: _Picture) -> None:
        try:
            if self._shown is None:
                self._shown = _pictures_of(client, self.tracked.run_id)
            if (picture.name, picture.step) not in self._shown:
                client.log_image(
                    self.tracked.run_id, picture.image, key=picture.name, step=picture.step, timestamp=picture.at
                )
                self._shown.add((picture.name, picture.step))
        except Exception:
            # It waits as long as the whole store is away, but not for ever where its files alone are refused.
            if picture.failed_at != self._calls:
                picture.failed_at = self._calls
                picture.failures += 1
                if picture.failures == _TRIES:
                    self.lost += 1
                    self._drop(picture)
            raise
        self._drop(picture)

    def _drop(self, picture: _Picture) -> None:
        with self._changed:
            if self._pictures and self._pictures[0] is picture:
                self._pictures.popleft()

    def _count(self, error: Exception) -> None:
        self._away += 1
        if self._away == 1:
            self._tell(
                f"warning: MLflow at {self._where} failed: {brief(error)}. Going on without it: what is logged "
                "meanwhile is kept, and sent when it answers again."
            )

    def _rest(self) -> None:
        """After a failure: some seconds, or less where `close` is waiting."""
        with self._changed:
            if self._end is None:
                self._changed.wait_for(lambda: self._end is not None, self._pause)
            else:
                self._changed.wait(min(self._pause, 1.0))

    def _tell(self, text: str) -> None:
        with suppress(Exception):  # who listens may be gone
            self._say(text)


_PICTURE_FILE = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+.*\.png")


def _pictures_of(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Name and step of each picture that a run has."""
    files = (_PICTURE_FILE.fullmatch(file.path.rpartition("/")[2]) for file in client.list_artifacts(run_id, "images"))
    return {(found[1].replace("~", "/"), int(found[2])) for found in files if found}
