"""`scadm profile NAME`: overlays on the explained parameters."""

import subprocess
from pathlib import Path

import pytest
import yaml

from scadm import profiles
from scadm.config import flatten
from scadm.profiles import Change

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def test_the_committed_parameters_are_the_quickstart_s() -> None:
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "show", ":params.yaml"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        pytest.skip("not in a git repository, so there is no committed params.yaml")
    assert shown.stdout == profiles.render("quickstart", CONF)


def test_a_profile_changes_values_and_keeps_the_comments() -> None:
    text, base = profiles.render("smoke", CONF), (CONF / "base.yaml").read_text()
    changes = flatten(yaml.safe_load((CONF / "smoke.yaml").read_text()))
    assert changes["training.steps"] == "40"
    assert flatten(yaml.safe_load(text)) == flatten(yaml.safe_load(base)) | changes
    assert "# images of an optimiser step over all workers" in text
    assert text.startswith("# Profile smoke, written by `scadm profile smoke`.")
    kept = [line.split("#", 1)[1].strip() for line in base.splitlines() if " #" in line]
    lost = [comment for comment in kept if comment not in text]
    # An overlaid list or section replaces what was written in it, not what was written beside it.
    assert not lost


def test_a_file_that_a_profile_names_and_that_is_not_there_is_named(tmp_path: Path) -> None:
    profiles.write("mini", params=tmp_path / "params.yaml")
    assert profiles.missing(tmp_path / "params.yaml") == [("data.path", "celebamask-hq-mini.zip")]
    profiles.write("quickstart", params=tmp_path / "params.yaml")
    assert profiles.missing(tmp_path / "params.yaml") == []


def test_write_reports_what_changed(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    first = profiles.write("quickstart", CONF, params)
    steps = yaml.safe_load((CONF / "base.yaml").read_text())["training"]["steps"]
    assert Change("training.steps", None, steps) in first
    assert profiles.write("quickstart", CONF, params) == []
    second = profiles.write("smoke", CONF, params)
    assert Change("training.steps", steps, 40) in second
    assert all(change.before != change.after for change in second)
    assert profiles.write("smoke", CONF, params) == []
    assert yaml.safe_load(params.read_text())["evaluation"]["figure_rows"] == 2


def test_a_key_that_goes_is_reported(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    profiles.write("quickstart", CONF, params)
    params.write_text(params.read_text() + "\nextra:\n  key: 5\n")
    assert profiles.write("quickstart", CONF, params) == [Change("extra.key", 5, None)]


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown profile 'huge', expected one of .*quickstart, smoke"):
        profiles.write("huge", CONF, tmp_path / "params.yaml")
    with pytest.raises(ValueError, match=r"unknown profile 'base'"):
        profiles.write("base", CONF, tmp_path / "params.yaml")
    assert not (tmp_path / "params.yaml").exists()


def test_an_invalid_profile_leaves_the_parameters_alone(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "base.yaml").write_text((CONF / "base.yaml").read_text())
    (conf / "odd.yaml").write_text("training: {steps: -1, speed: 3}\n")
    params = tmp_path / "params.yaml"
    params.write_text("old")
    with pytest.raises(ValueError, match=r"(?s)profile odd is not valid.*training.steps = -1"):
        profiles.write("odd", conf, params)
    assert params.read_text() == "old"
