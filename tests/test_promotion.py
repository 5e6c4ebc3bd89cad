"""Who is champion, on a real SQLite store."""

from pathlib import Path

import pytest
from evaluations import FACES, scores
from registered import Shelf

from scadm import promotion
from scadm.config import GateConfig, RegistryConfig
from scadm.promotion import promote, rollback
from scadm.registry import Registry, Version

CONFIG = RegistryConfig(gate=GateConfig(min_ssim_share=0.25, min_accuracy_share=0.9, min_transfer=0.5), tolerance=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one store for all tests here."""
    return tmp_path_factory.mktemp("promotion")


@pytest.fixture
def shelf(folder: Path, request: pytest.FixtureRequest) -> Shelf:
    """A model of each test's own."""
    return Shelf(folder, request.node.name.replace("test_", "").replace("[", "-").replace("]", ""))


def champion(shelf: Shelf) -> str | None:
    found = shelf.registry.by_alias("champion")
    return found and found.number


def tags(shelf: Shelf, version: Version) -> dict[str, str]:
    return shelf.client.get_model_version(shelf.name, version.number).tags


def state(shelf: Shelf) -> object:
    model = shelf.client.get_registered_model(shelf.name)
    return model.aliases, [tags(shelf, version) for version in shelf.registry.versions()]


def again(shelf: Shelf, version: Version) -> Version:
    found = shelf.registry.by_number(version.number)
    assert found is not None
    return found


def test_the_first_good_model_is_champion_and_a_worse_one_is_not(shelf: Shelf) -> None:
    first, worse = shelf.version(0.6), shelf.version(0.55)
    found = promote(shelf.registry, first, CONFIG)
    assert found.promoted and found.before is None and found.compared_with is None
    assert champion(shelf) == "1" and int(tags(shelf, first)["scadm.promoted"]) > 1.7e12
    found = promote(shelf.registry, worse, CONFIG)
    assert not found.promoted and found.before == first
    assert champion(shelf) == "1" and "scadm.promoted" not in tags(shelf, worse)
    with_it = found.compared_with
    assert with_it is not None
    assert (with_it["version"], with_it["test_split"], with_it["metrics"]["ssim"]) == ("1", "same", 0.6)
    assert with_it["difference"] == pytest.approx([-0.05] * 3)
    assert list(found.lines(worse.label))[-1].endswith(
        "/2 is a candidate, not promoted to champion: version 1 stays it"
    )


def test_an_equal_and_a_better_model_take_its_place(shelf: Shelf) -> None:
    first, better = shelf.version(0.6), shelf.version(0.65)
    equal = shelf.version(0.6, by_face=scores(0.6, seed=1))
    for version in (first, equal, better):
        assert promote(shelf.registry, version, CONFIG).promoted
        assert champion(shelf) == version.number
    times = [int(tags(shelf, version)["scadm.promoted"]) for version in (first, equal, better)]
    assert times == sorted(set(times))


def test_the_champion_itself_stays_it(shelf: Shelf) -> None:
    first = shelf.version(0.6)
    promote(shelf.registry, first, CONFIG)
    before = state(shelf)
    found = promote(shelf.registry, again(shelf, first), CONFIG)
    assert found.promoted and found.compared_with is None and state(shelf) == before
    stricter = CONFIG.model_copy(update={"gate": CONFIG.gate.model_copy(update={"min_ssim_share": 0.9})})
    found = promote(shelf.registry, again(shelf, first), stricter)
    assert not found.promoted and state(shelf) == before
    assert list(found.lines(first.label))[-1] == f"{first.label} is champion already, though the gate says no now"


def test_another_split_is_not_promoted_and_nothing_is_compared(shelf: Shelf) -> None:
    first, drifted = shelf.version(0.6), shelf.version(0.7, split="other")
    promote(shelf.registry, first, CONFIG)
    found = promote(shelf.registry, drifted, CONFIG)
    assert not found.promoted and champion(shelf) == "1"
    assert found.compared_with is not None and found.compared_with["difference"] is None
    assert f"`scadm promote {drifted.label} --force`" in found.verdict.reasons[-1]
    fewer = shelf.version(0.71, by_face=scores(0.71, faces=FACES[1:]))
    assert not promote(shelf.registry, fewer, CONFIG).promoted


def test_force_promotes_whatever_the_gate_says_and_records_it(shelf: Shelf) -> None:
    first, worse, bad = shelf.version(0.6), shelf.version(0.55), shelf.version(0.3)
    promote(shelf.registry, first, CONFIG)
    found = promote(shelf.registry, worse, CONFIG, force=True)
    assert found.promoted and not found.verdict.promoted and champion(shelf) == "2"
    assert "worse" in tags(shelf, worse)["scadm.forced"]
    said = list(found.lines(worse.label))
    assert said[-1] == f"{worse.label} is champion, though the gate says no, in place of version 1"
    assert promote(shelf.registry, first, CONFIG, force=True).promoted
    assert "scadm.forced" not in tags(shelf, first), "the gate lets it"
    assert promote(shelf.registry, bad, CONFIG, force=True).promoted and champion(shelf) == "3"


def test_a_champion_without_an_evaluation_is_one_message_that_force_passes(shelf: Shelf) -> None:
    bare, version = shelf.version(0.7), shelf.version(0.6)
    place = shelf.client.get_model_version_download_uri(shelf.name, bare.number)
    (Path(place) / "artifacts" / "evaluation" / "faces.csv").unlink()
    shelf.registry.point("champion", bare)
    before = state(shelf)
    with pytest.raises(ValueError, match=f"the evaluation of {bare.uri} cannot be read.*scadm promote VERSION --force"):
        promote(shelf.registry, version, CONFIG)
    assert state(shelf) == before
    assert promote(shelf.registry, version, CONFIG, force=True).promoted
    assert champion(shelf) == version.number
    assert "cannot be read" in tags(shelf, version)["scadm.forced"]


def test_dry_runs_change_nothing(shelf: Shelf) -> None:
    first, better, worse = shelf.version(0.6), shelf.version(0.7), shelf.version(0.5)
    before = state(shelf)
    assert promote(shelf.registry, first, CONFIG, dry_run=True).promoted and state(shelf) == before
    promote(shelf.registry, first, CONFIG)
    promote(shelf.registry, better, CONFIG)
    before = state(shelf)
    found = promote(shelf.registry, worse, CONFIG, dry_run=True)
    assert not found.promoted and "would stay" in list(found.lines(worse.label, dry_run=True))[-1]
    assert promote(shelf.registry, worse, CONFIG, dry_run=True, force=True).promoted
    assert rollback(shelf.registry, dry_run=True) == (better, first)
    assert state(shelf) == before


# --- back -----------------------------------------------------------------------------------------------


def test_a_rollback_goes_back_one_champion_at_a_time_and_then_says_that_there_is_none(shelf: Shelf) -> None:
    with pytest.raises(ValueError, match="has no champion"):
        rollback(shelf.registry)
    versions = [shelf.version(ssim) for ssim in (0.6, 0.65, 0.7)]
    rejected = shelf.version(0.5)
    for version in (*versions, rejected):
        promote(shelf.registry, version, CONFIG)
    first, second, third = versions
    assert rollback(shelf.registry) == (third, second) and champion(shelf) == "2"
    assert rollback(shelf.registry) == (second, first) and champion(shelf) == "1"
    before = state(shelf)
    with pytest.raises(ValueError, match="was champion before 1, expected one to go back to: the champion stays"):
        rollback(shelf.registry)
    assert state(shelf) == before


def test_what_was_rolled_back_is_not_gone_back_to(shelf: Shelf) -> None:
    first, second, third = (shelf.version(ssim) for ssim in (0.6, 0.65, 0.7))
    promote(shelf.registry, first, CONFIG)
    promote(shelf.registry, second, CONFIG)
    rollback(shelf.registry)
    promote(shelf.registry, third, CONFIG)
    assert rollback(shelf.registry) == (third, first)


def test_what_was_rolled_back_comes_back_by_force_only(shelf: Shelf) -> None:
    """The stage may run again for any reason, and the gate does not know why somebody went back."""
    first, second = shelf.version(0.6), shelf.version(0.65)
    promote(shelf.registry, first, CONFIG)
    promote(shelf.registry, second, CONFIG)
    rollback(shelf.registry)
    found = promote(shelf.registry, again(shelf, second), CONFIG)
    assert not found.promoted and champion(shelf) == "1"
    assert "when it was rolled back" in found.verdict.reasons[-1]
    assert f"`scadm promote {second.label} --force`" in found.verdict.reasons[-1]
    assert promote(shelf.registry, again(shelf, second), CONFIG, force=True).promoted
    assert rollback(shelf.registry) == (second, first), "and back again"


def test_of_an_alias_set_by_hand_the_last_promoted_is_gone_back_to(shelf: Shelf) -> None:
    first, second, by_hand = (shelf.version(ssim) for ssim in (0.6, 0.65, 0.7))
    promote(shelf.registry, first, CONFIG)
    promote(shelf.registry, second, CONFIG)
    shelf.registry.point("champion", by_hand)
    assert rollback(shelf.registry) == (by_hand, second)


def test_clocks_of_two_machines_do_not_turn_the_order(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = shelf.version(0.6), shelf.version(0.65)
    promote(shelf.registry, first, CONFIG)
    monkeypatch.setattr(promotion.time, "time_ns", lambda: 1_000_000)
    promote(shelf.registry, second, CONFIG)
    assert rollback(shelf.registry) == (second, first)


# --- others at the same time ----------------------------------------------------------------------------


class Interrupted(Registry):
    """Another machine moves the alias just before the n-th time that this one reads it."""

    def __init__(self, shelf: Shelf, at: int, other: Version) -> None:
        super().__init__(shelf.uri, shelf.name)
        self.at, self.other, self.reads = at, other, 0

    def by_alias(self, alias: str) -> Version | None:
        self.reads += 1
        if self.reads == self.at:
            self.point("champion", self.other)
        return super().by_alias(alias)


@pytest.mark.parametrize("at", [2, 3])  # right before this one moves it, and right after
@pytest.mark.parametrize(("other", "champion_then"), [(0.7, "2"), (0.62, "3")])
def test_what_another_machine_promotes_meanwhile_is_judged_too(
    shelf: Shelf, at: int, other: float, champion_then: str
) -> None:
    first, theirs, ours = shelf.version(0.6), shelf.version(other), shelf.version(0.65)
    shelf.registry.point("champion", first)
    found = promote(Interrupted(shelf, at, theirs), ours, CONFIG)
    assert champion(shelf) == champion_then
    assert found.before == theirs and found.promoted == (champion_then == "3")


def test_a_champion_that_never_stays_is_one_message(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [shelf.version(0.6), shelf.version(0.61)]
    ours = shelf.version(0.7)
    registry = shelf.registry

    def moving(_: str) -> Version:
        versions.reverse()
        return versions[0]

    monkeypatch.setattr(registry, "by_alias", moving)
    with pytest.raises(ValueError, match=f"changed 5 times while {ours.label}.*`scadm promote {ours.label}` tries"):
        promote(registry, ours, CONFIG)


def test_a_champion_that_moves_during_a_rollback_is_left_alone(shelf: Shelf) -> None:
    first, second, theirs = (shelf.version(ssim) for ssim in (0.6, 0.65, 0.7))
    promote(shelf.registry, first, CONFIG)
    promote(shelf.registry, second, CONFIG)
    with pytest.raises(ValueError, match="was 2 and is 3 meanwhile, expected it to stay"):
        rollback(Interrupted(shelf, 2, theirs))
    assert champion(shelf) == "3" and "scadm.rolled_back" not in tags(shelf, second)
