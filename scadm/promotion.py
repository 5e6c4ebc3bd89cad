"""Which version is champion: judged by the gate against the present one, moved last, and put back on request.

On one machine a project's registrations, promotions and rollbacks come one after the other (`alone`). Between machines
MLflow has no "move it if it is still where I saw it", so the alias is read again right before it moves, and the version
judged again if it has changed; and right after, in case another machine has moved it since. What remains: of two
machines that both read the alias before either moves it, a matter of milliseconds, the later one wins without having
been compared with the earlier. There is still exactly one champion, which met the gate against the one before both,
`scadm rollback` goes back to the other, and `scadm promote NAME/VERSION` judges the other against it.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scadm.config import RegistryConfig
from scadm.evaluation.evaluated import MODEL, Evaluated
from scadm.evaluation.gate import Verdict, judge
from scadm.registry import CHAMPION, FORCED, PROMOTED, ROLLED_BACK, Registry, Version

_TRIES = 5
"""So many champions that others make meanwhile are met; beyond, somebody should look."""


@dataclass(frozen=True)
class Decision:
    verdict: Verdict
    before: Version | None
    """The champion that it was judged beside; the judged version itself, if that is it."""
    rival: Version | None
    """The champion that it was judged against: another one."""
    promoted: bool
    """The gate lets it, or somebody insists."""

    @property
    def compared_with(self) -> dict[str, Any] | None:
        """For registration.json: the rival and its reconstruction, and the SSIM that the judged one has over it."""
        if self.rival is None:
            return None
        difference = self.verdict.difference
        return {
            "version": self.rival.number,
            "metrics": dict(self.rival.evaluated.metrics.get("reconstruction", {}).get(MODEL, {})),
            "test_split": self.rival.test_split,
            "difference": None if difference is None else list(difference),
        }

    def lines(self, label: str, *, dry_run: bool = False) -> Iterator[str]:
        """For people: every reason, and what became of the judged version, or would become."""
        yield from self.verdict.reasons
        if self.before is not None and self.rival is None:
            yield f"{label} is champion already" + ("" if self.verdict.promoted else ", though the gate says no now")
        elif self.promoted:
            insisted = "" if self.verdict.promoted else ", though the gate says no"
            before = "the first one" if self.before is None else f"in place of version {self.before.number}"
            yield f"{label} {'would become' if dry_run else 'is'} champion{insisted}, {before}"
        else:
            stays = "there is none" if self.before is None else f"version {self.before.number} stays it"
            yield f"{label} {'would stay' if dry_run else 'is'} a candidate, not promoted to champion: {stays}"


@contextmanager
def alone(home: Path, say: Callable[[str], None]) -> Iterator[None]:
    """No other process of this machine changes this project's registry meanwhile; who comes second waits, and says so.

    The system drops the lock of a process that was killed.
    """
    path = home / ".work" / ".registry.lock"
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is at work in the registry; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def decide(
    name: str, evaluated: Evaluated, version: Version | None, champion: Version | None, config: RegistryConfig
) -> Decision:
    """What the gate says of an evaluation of the model `name`; `version` is what it is registered as, if it is yet.

    Raises ValueError where it, or the champion, cannot be judged.
    """
    rival = None if champion is None or champion == version else champion
    label = f"{name}/candidate" if version is None else version.label
    verdict = judge(evaluated, None if rival is None else rival.evaluated, config, version=label)
    if version is not None and (version.rolled_back or 0) > (version.promoted or 0) and rival is not None:
        # Or else the stage, run again for any reason, would undo what somebody did for a reason of their own.
        said = (
            f"It was champion until {_date(version.rolled_back or 0)}, when it was rolled back. `scadm promote {label} "
            "--force` makes it champion again."
        )
        verdict = replace(verdict, promoted=False, reasons=(*verdict.reasons, said))
    return Decision(verdict, champion, rival, verdict.promoted)


def promote(
    registry: Registry, version: Version, config: RegistryConfig, *, force: bool = False, dry_run: bool = False
) -> Decision:
    """Make a version champion if the gate lets it or, with `force`, whatever it says, which a tag then records.

    Raises ValueError where it cannot be judged, and is not forced; the alias is then as it was. A dry run writes
    nothing.
    """
    for _ in range(_TRIES):
        champion = registry.by_alias(CHAMPION)
        decision = _forced(version, champion, config) if force else _judged(version, champion, config)
        if dry_run or champion == version or not decision.promoted:
            return decision
        if registry.by_alias(CHAMPION) != champion:
            continue
        if not decision.verdict.promoted:
            registry.tag(version, FORCED, " ".join(decision.verdict.reasons))
        registry.tag(version, PROMOTED, str(_now(champion and champion.promoted, version.rolled_back)))
        registry.point(CHAMPION, version)  # last: whoever follows the alias never sees half a promotion
        if registry.by_alias(CHAMPION) == version:
            return decision
    raise ValueError(
        f"the champion of {registry.name} changed {_TRIES} times while {version.label} was judged against it, expected "
        f"it to stay: others promote all the time, and it is theirs. `scadm promote {version.label}` tries again."
    )


def rollback(registry: Registry, *, dry_run: bool = False) -> tuple[Version, Version]:
    """Make the version champion again that was it before: (the one that was champion now, the one that is).

    Raises ValueError where there is none. A dry run writes nothing.
    """
    champion = registry.by_alias(CHAMPION)
    if champion is None:
        raise ValueError(
            f"{registry.name} has no champion, so there is nothing to go back from. `scadm promote` makes the "
            "candidate champion if the gate lets it."
        )
    before = _champion_before(champion, registry.versions())
    if before is None:
        raise ValueError(
            f"no version of {registry.name} was champion before {champion.number}, expected one to go back to: the "
            f"champion stays. `scadm promote {registry.name}/VERSION --force` makes any other version champion."
        )
    if not dry_run:
        if (now := registry.by_alias(CHAMPION)) != champion:
            raise ValueError(
                f"the champion of {registry.name} was {champion.number} and is {now and now.number} meanwhile, "
                "expected it to stay: somebody else has moved it, and nothing was changed here. Run the command again."
            )
        registry.tag(champion, ROLLED_BACK, str(_now(champion.promoted)))
        registry.point(CHAMPION, before)
    return champion, before


def _judged(version: Version, champion: Version | None, config: RegistryConfig) -> Decision:
    return decide(version.name, version.evaluated, version, champion, config)


def _forced(version: Version, champion: Version | None, config: RegistryConfig) -> Decision:
    """As `_judged`; what cannot be judged is a reason like others."""
    try:
        return replace(_judged(version, champion, config), promoted=True)
    except ValueError as error:
        return Decision(Verdict(False, (str(error),)), champion, None if champion == version else champion, True)


def _champion_before(champion: Version, versions: list[Version]) -> Version | None:
    """The last one promoted before it that nobody has rolled back since."""
    limit = math.inf if champion.promoted is None else champion.promoted  # None: the alias was set by hand
    times = {v.promoted: v for v in versions if v.promoted is not None and (v.rolled_back or 0) < v.promoted < limit}
    return times[max(times)] if times else None


def _now(*after: int | None) -> int:
    """Milliseconds since 1970, later than these: the clocks of two machines may differ, the order of events not."""
    return max([time.time_ns() // 1_000_000, *(moment + 1 for moment in after if moment is not None)])


def _date(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
