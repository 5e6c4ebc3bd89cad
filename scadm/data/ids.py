"""What may be the id of a face, and how a message lists some of them."""

import re
from collections.abc import Collection, Iterable

_ID = re.compile(r"[A-Za-z0-9_-]+")


def require_id(name: str, where: str) -> None:
    """Raise ValueError unless `name` can be an id: ids become the keys of tar members, which end at a dot."""
    if not _ID.fullmatch(name):
        raise ValueError(
            f"{where} would give a face the id {name!r}, expected letters, digits, '_' and '-' only. Ids "
            "become the keys of shards, where other characters cut a name short: rename the image and its "
            "masks."
        )


def some(ids: Iterable[str], most: int = 10) -> str:
    """The first `most` ids in order, and how many more there are."""
    ordered = sorted(ids)
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")


def leave_out(ids: Iterable[str], known_bad: Collection[str], where: str) -> tuple[str, ...]:
    """The ids without those in `known_bad`. Raises ValueError if one of these is absent, or none remains."""
    every = tuple(ids)
    if absent := set(known_bad) - set(every):
        raise ValueError(
            f"data.known_bad lists {some(absent)}, expected ids of {where}. A misspelt id would leave the "
            f"bad face in: correct the list (ids look like {every[0]})."
        )
    kept = tuple(id for id in every if id not in set(known_bad))
    if not kept:
        raise ValueError(f"data.known_bad leaves no face of {where}: shorten the list.")
    return kept
