"""No secret in what is printed, logged or shown: passwords in addresses, tokens, keys."""

import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any

HIDDEN = "***"

_SECRET = r"(?:token|secret|password|passwd|pwd|(?:access|api|secret|private|account)[_-]?key|signature|credentials?)"
_VALUE = r"[^\s&;,'\"<>()\[\]{}]+"

_SIGNED_IN: tuple[re.Pattern[str], ...] = (
    # scheme://user:password@host. What has no colon is a user or, for abfs://, a container. A number before a slash is
    # a port: http://host:5000/name@alias holds no password.
    re.compile(r"([A-Za-z][\w+.-]*://)[^\s/:@'\"\[]*:[^\s/'\"]*@"),
    re.compile(r"([A-Za-z][\w+.-]*://)[^\s/:@'\"\[]*:(?!\d+/)[^\s@'\"]*@"),
)

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Whatever follows `Authorization:`, and a bearer's token anywhere.
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token)\s+)?" + _VALUE), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer\s+)[^\s&;,'\"<>()\[\]{}]{8,}"), rf"\1{HIDDEN}"),
    *((pattern, rf"\1{HIDDEN}@") for pattern in _SIGNED_IN),
    # In a web address what stands alone before the @ may be a token.
    (re.compile(r"(?i)(https?://)[^\s/:@'\"\[]+@"), rf"\1{HIDDEN}@"),
    # ?key=..., &X-Amz-Signature=..., &sig=... of an address.
    (re.compile(rf"(?i)([?&;](?:[\w.-]*(?:{_SECRET}|key|key[_-]?id)|sig|sas|auth)=){_VALUE}"), rf"\1{HIDDEN}"),
    # AWS_SECRET_ACCESS_KEY=..., 'password': '...', --token ...
    (re.compile(rf"(?i)([\w.-]*{_SECRET}(?:[_-]id)?[\"']?\s*(?:=|:(?!//))\s*[\"']?){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)(--[\w-]*{_SECRET}\s+){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
)

_ENVIRONMENT = re.compile(rf"(?i)^(?!pwd$)(?:.*_)?{_SECRET}$")  # PWD is the working directory
_SHORTEST = 8
"""Of a variable's value that is looked for in any text: a shorter one may be a word."""


def _from_environment() -> list[str]:
    """Values of this process's variables whose names say that they are secret, longest first."""
    values = {value for name, value in os.environ.items() if _ENVIRONMENT.search(name) and len(value) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)


def redacted(text: str) -> str:
    """`text` with each password, token and key replaced by ***; to redact it again changes nothing.

    A value counts as secret where an address or its name says so, or where it is that of an environment variable with
    such a name (AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_TOKEN).
    """
    for value in _from_environment():
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def holds_password(address: str) -> bool:
    """Whether an address holds user:password@."""
    return any(pattern.search(address) for pattern in _SIGNED_IN)


def redacted_traceback(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """As `sys.excepthook`: the traceback without secrets."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, at))))
    sys.stderr.flush()


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def one_line(error: BaseException | str, longest: int = 300) -> str:
    """The whole of an error's message on one line, without secrets and colours; what is longer ends with ..."""
    text = " ".join(_COLOUR.sub("", redacted(str(error))).split())  # redacted first: half a password is not known
    return text if len(text) <= longest else f"{text[:longest]} ..."


def brief(error: Any, longest: int = 300) -> str:
    """The first line of an error's message, without secrets, for a warning of one line."""
    lines = redacted(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:longest]
