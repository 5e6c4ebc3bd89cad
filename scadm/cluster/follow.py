"""A cluster's jobs, asked over HTTP: connecting, and following one job to its end."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from scadm.redaction import one_line, redacted

_SECONDS_TO_ANSWER = 5
_PATIENCE = 600.0  # seconds without an answer, after which the launcher stops following
_EVERY = 1.0
_TALKATIVE = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")  # with levels of their own

UNREACHABLE = (requests.RequestException, aiohttp.ClientError, OSError, RuntimeError)
"""What asking a head that is gone, restarting or behind a broken connection raises."""


def client_at(address: str) -> JobSubmissionClient:
    """A client of the jobs of the cluster at http(s)://HOST:PORT. Raises ValueError if none answers there."""
    for name in ("ray", *_TALKATIVE):  # of what it ignores, and when a connection ends: our own lines say it
        logging.getLogger(name).setLevel(logging.ERROR)
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:  # Ray's client waits for a silent address without end
        socket.create_connection((parts.hostname or "", port), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ValueError(
            f"nothing answers at {address}: {error}. Expected the dashboard of a running Ray head, such as "
            "http://127.0.0.1:8265: start one (`ray start --head`), or correct cluster.address or --address."
        ) from None
    try:
        return JobSubmissionClient(address)
    except (*UNREACHABLE, AuthenticationError) as error:
        raise ValueError(
            f"the jobs of {address} cannot be used: {one_line(error)}. A cluster with a token needs "
            "RAY_AUTH_MODE=token and the same token here (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)."
        ) from None


@contextmanager
def head_answering(address: str, remedy: str) -> Iterator[None]:
    """Raise ValueError with a remedy where the head at `address` does not answer what is asked of it in the block."""
    try:
        yield
    except UNREACHABLE as error:
        raise ValueError(
            f"the Ray head at {redacted(address)} answers no more ({one_line(error)}). Expected one that answers, as "
            f"it did when this began: see whether it still runs. {remedy}"
        ) from None


def submissions(client: JobSubmissionClient, base: str) -> list[JobDetails]:
    """The jobs that were submitted under `base` or `base`-2, `base`-3, ..., the newest last."""
    jobs = [job for job in client.list_jobs() if job.submission_id and _attempt(job.submission_id, base)]
    return sorted(jobs, key=lambda job: _attempt(job.submission_id or "", base))


def _attempt(submission: str, base: str) -> int:
    """1 for `base`, n for `base`-n, 0 for anything else."""
    if submission == base:
        return 1
    rest = submission.removeprefix(f"{base}-")
    return int(rest) if rest != submission and rest.isdigit() else 0


def next_id(jobs: list[JobDetails], base: str) -> str:
    """The first submission id that is still free; Ray takes each but once."""
    last = max((_attempt(job.submission_id or "", base) for job in jobs), default=0)
    return base if last == 0 else f"{base}-{last + 1}"


class Log:
    """What was shown of a job's log. Each connection sends it from its first line, and only what is new is shown."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show, self.seen = show, 0

    async def tail(self, client: JobSubmissionClient, submission: str) -> None:
        """Show what comes, until the job or the connection has ended."""
        position = 0
        async for text in client.tail_job_logs(submission):
            position += len(text)
            if position > self.seen:
                self.show(text[len(text) - (position - self.seen) :] if position - self.seen < len(text) else text)
                self.seen = position


def follow(
    client: JobSubmissionClient,
    submission: str,
    show: Callable[[str], None],
    say: Callable[[str], None],
    patience: float = _PATIENCE,
) -> JobStatus:
    """Show a job's log as it is written, until the job has ended; returns how.

    A connection that drops is made again, and the log goes on where it stopped. Raises ValueError after `patience`
    seconds without an answer, and where the cluster knows the job no more.
    """
    log, heard, lost, ended = Log(show), time.monotonic(), False, False
    while True:
        try:
            status = client.get_job_status(submission)
            if lost:
                say(f"connected to job {submission} again")
            heard, lost, ended = time.monotonic(), False, status.is_terminal()
            asyncio.run(log.tail(client, submission))
            if ended:  # as it was before the log was read: so the log is whole
                return status
        except UNREACHABLE as error:
            if ended:
                say("its last lines cannot be read any more: the node that held them may be gone")
                return status
            if isinstance(error, RuntimeError) and _is_forgotten(client, submission):
                raise ValueError(
                    f"the cluster knows the job {submission} no more: its head was replaced, and the job has ended "
                    "with it. The same command submits it again, and goes on from what is finished, a training from "
                    "its last checkpoint."
                ) from None
            if time.monotonic() - heard > patience:
                raise ValueError(
                    f"no answer of the job {submission} for {patience:g} s ({one_line(error)}). It may well go on: the "
                    "same command attaches to it again."
                ) from None
            if log.seen and not lost:  # a job that has not begun has no log yet
                say(f"the connection to job {submission} is lost; trying again. The job goes on, if its head does")
            lost = lost or bool(log.seen)
        time.sleep(_EVERY)


def _is_forgotten(client: JobSubmissionClient, submission: str) -> bool:
    """Whether the head answers and does not know the job; a head that is away says nothing of it."""
    try:
        return all(job.submission_id != submission for job in client.list_jobs())
    except UNREACHABLE:
        return False
