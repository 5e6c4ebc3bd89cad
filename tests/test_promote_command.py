"""`scadm register`, `promote` and `rollback`, in a project whose evaluation is made up."""

import sys
from pathlib import Path

import pytest
from evaluated_project import NAME, EvaluatedProject

from scadm.app import cli
from scadm.registry import Registry


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluatedProject:
    monkeypatch.delenv("SCADM_HOME", raising=False)
    project = EvaluatedProject(tmp_path)
    monkeypatch.chdir(tmp_path)
    return project


class Call:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What a command says; its exit status must be this one."""
        self.monkeypatch.setattr(sys, "argv", ["scadm", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = self.capsys.readouterr()
        assert ended.value.code == status, shown
        return shown.err if status == 1 else shown.out


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch, capsys)


def test_a_model_is_registered_promoted_rejected_forced_and_rolled_back(project: EvaluatedProject, call: Call) -> None:
    said = call("register", "--dry-run")
    assert f"a new version of {NAME} would become champion, the first one" in said
    assert project.versions == [] and not (project.folder / "reports/registration.json").exists()

    assert f"{NAME}/1 is champion, the first one" in call("register", "--strict")
    assert project.aliases == {"candidate": "1", "champion": "1"}
    first = project.registration
    assert first["promoted"] and first["champion"] == "1" and first["compared_with"] is None
    assert "dry_run" not in first and first["uri"] == f"models:/{NAME}/1"
    version = Registry(project.uri, NAME).by_alias("champion")
    assert version is not None and version.evaluated.facts["mlflow_run"] == project.run
    description = project.client.get_model_version(NAME, "1").description or ""
    assert description.startswith(f"# {NAME}\n")

    call("register")
    assert project.versions == ["1"] and project.registration == first, "again, it changes nothing"

    project.evaluate(0.62)
    said = call("register", "--dry-run")
    assert "worse." in said and "would stay a candidate" in said and project.versions == ["1"]
    call("register", "--dry-run", "--strict", status=3)
    said = call("register")
    assert f"{NAME}/2 is a candidate, not promoted to champion: version 1 stays it" in said
    rejected = project.registration
    assert not rejected["promoted"] and (rejected["version"], rejected["champion"]) == ("2", "1")
    compared = rejected["compared_with"]
    assert (compared["version"], compared["test_split"], compared["metrics"]["ssim"]) == ("1", "same", 0.65)
    assert compared["difference"] == pytest.approx([-0.03] * 3)
    call("register", "--strict", status=3)

    assert "would stay a candidate" in call("promote", "--dry-run", status=3)
    call("promote", status=3)
    assert project.aliases == {"candidate": "2", "champion": "1"}
    said = call("promote", "--force", "--dry-run")
    assert "would become champion, though the gate says no" in said and "nothing was changed" in said
    assert project.aliases["champion"] == "1"
    said = call("promote", f"{NAME}/2", "--force")
    assert f"{NAME}/2 is champion, though the gate says no, in place of version 1" in said
    assert project.aliases["champion"] == "2"
    assert "scadm.forced" in project.client.get_model_version(NAME, "2").tags

    assert f"{NAME}/1 would be champion again" in call("rollback", "--dry-run")
    assert project.aliases["champion"] == "2"
    said = call("rollback")
    assert f"{NAME}/1 is champion again, in place of version 2" in said
    assert project.aliases == {"candidate": "2", "champion": "1"}
    assert "no version of" in call("rollback", status=1)


def test_promote_names_versions_by_number_alias_and_name(project: EvaluatedProject, call: Call) -> None:
    call("register")
    for name in ("1", "champion", f"{NAME}/1", f"models:/{NAME}/1", f"models:/{NAME}@candidate"):
        assert f"{NAME}/1 is champion already" in call("promote", name)
    said = call("promote", "7", status=1)
    assert f"error: the version is '7', but {NAME} has none of that number or alias, expected one of 1." in said
    assert "has no version yet" in call("promote", "others/1", status=1)


def test_what_is_wrong_with_an_evaluation_is_one_message_and_nothing_is_registered(
    project: EvaluatedProject, call: Call
) -> None:
    (project.folder / "reports" / "faces.csv").unlink()
    for arguments in (("register",), ("register", "--dry-run")):
        said = call(*arguments, status=1)
        assert said.startswith("error: ") and "faces.csv does not exist" in said and "Traceback" not in said
    assert project.versions == []
