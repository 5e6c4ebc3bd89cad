"""The command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from scadm.app import cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the profiles, as the current one."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of `scadm ...` in this process."""
    monkeypatch.setattr(sys, "argv", ["scadm", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    for name in ("doctor", "profile", "estimate", "import-checkpoint", "register", "promote", "rollback"):
        assert name in shown.output
        assert CliRunner().invoke(cli.app, [name, "--help"]).exit_code == 0


def test_a_profile_is_written_and_what_it_changes_shown(project: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["profile", "quickstart"])
    assert shown.exit_code == 0
    steps = yaml.safe_load((project / "params.yaml").read_text())["training"]["steps"]
    shown = CliRunner().invoke(cli.app, ["profile", "smoke"])
    assert f"training.steps: {steps} -> 40" in shown.output
    assert "params.yaml is now profile smoke" in shown.output
    assert yaml.safe_load((project / "params.yaml").read_text())["training"]["steps"] == 40


def test_an_unknown_profile_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "profile", "huge") == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: unknown profile 'huge', expected one of celebamask-hq")
    assert shown.out == ""
    assert not (project / "params.yaml").exists()


def test_an_estimate_of_the_parameters(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "estimate") == 1
    assert "error: params.yaml does not exist" in capsys.readouterr().err
    assert call(monkeypatch, "profile", "smoke") == 0
    assert call(monkeypatch, "estimate") == 0
    assert "40 steps of 8 images" in capsys.readouterr().out


def test_no_line_holds_a_password_of_an_address(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "profile", "smoke") == 0
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("uri: sqlite", "uri: http://me:S3cret@host:5000"))
    assert call(monkeypatch, "profile", "quickstart") == 0
    assert "tracking.uri: http://***@host:5000 -> sqlite" in capsys.readouterr().out
    params.write_text(params.read_text().replace("root: storage", "root: s3://AKID:S3cret@bucket"))
    assert call(monkeypatch, "estimate") == 1
    assert "storage.root = 's3://***@bucket'" in capsys.readouterr().err

    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(cli, "app", lambda: fail(ValueError("nobody at http://me:S3cret@host")))
    assert call(monkeypatch) == 1
    assert capsys.readouterr().err == "error: nobody at http://***@host\n"


def test_an_error_of_the_code_has_a_traceback_without_passwords(project: Path) -> None:
    program = "import sys; from scadm.app import cli, doctor; sys.argv = ['scadm', 'doctor']; "
    program += "doctor.examine = lambda: {}['http://me:S3cret@host']; cli.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "KeyError: 'http://***@host'" in done.stderr
    assert "S3cret" not in done.stdout + done.stderr


def test_an_unknown_command_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "paint") == 2
    shown = capsys.readouterr().err
    assert "paint" in shown
    assert "Traceback" not in shown
