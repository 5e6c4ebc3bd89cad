"""Two registrations at once, and a registry that goes away in the middle of one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluated_project import NAME, ROOT, EvaluatedProject
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer

import pipeline.register
from scadm import promotion, registry, stage
from scadm.evaluation.gate import Verdict


def start(project: EvaluatedProject, home: Path) -> "subprocess.Popen[str]":
    env = {**os.environ, "SCADM_HOME": str(home), "PYTHONPATH": f"{project.folder}{os.pathsep}{ROOT / 'tests/guard'}"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.register"],
        cwd=project.folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(processes: "list[subprocess.Popen[str]]") -> str:
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return "".join(said)


def beside(project: EvaluatedProject, folder: Path, ssim: float) -> EvaluatedProject:
    """Another workspace of the project, such as that of an experiment, with another evaluation."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("storage", ".work"))
    other = object.__new__(EvaluatedProject)
    other.__dict__ |= project.__dict__ | {"folder": folder}
    other.evaluate(ssim)
    return other


@pytest.mark.slow
def test_of_two_at_once_on_one_machine_the_better_ends_as_champion_and_none_is_lost(tmp_path: Path) -> None:
    good = EvaluatedProject(tmp_path / "home", code=True)
    better = beside(good, tmp_path / "better", 0.7)
    same = beside(good, tmp_path / "same", 0.7)
    said = ended([start(project, good.folder) for project in (good, better, same)])
    assert "another process is at work in the registry; waiting" in said
    assert good.versions == ["1", "2"], "an evaluation is registered once"
    assert good.aliases["champion"] == better.registration["version"] == same.registration["version"]
    assert better.registration["promoted"] and same.registration["promoted"]
    first = good.registration
    assert first["promoted"] == (first["version"] == "1"), "it came before the better one, or was rejected"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path / "server") as server:
        yield server


@pytest.mark.slow
def test_of_two_machines_at_once_one_ends_as_champion(server: MlflowServer, tmp_path: Path) -> None:
    """No lock is common to them. What scadm/promotion.py says that remains is let through, and nothing else."""
    machines = [EvaluatedProject(tmp_path / name, server.uri, code=True) for name in ("good", "better")]
    machines[1].evaluate(0.7)
    ended([start(project, project.folder) for project in machines])
    good, better = (project.registration for project in machines)
    assert sorted([good["version"], better["version"]]) == ["1", "2"] and better["promoted"]
    unseen = good["promoted"] and good["compared_with"] is None and better["compared_with"] is None
    assert machines[0].aliases["champion"] == better["version"] or unseen


def failing(project: EvaluatedProject, capsys: pytest.CaptureFixture[str]) -> None:
    """The stage ends with one message, which names the registry and the remedy."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as status:
        stage.run("register", pipeline.register.main)
    assert status.value.code == 1
    shown = capsys.readouterr().err
    (line,) = [line for line in shown.splitlines() if line.startswith("error in stage register: ")]
    assert f"the model registry {project.uri} failed" in line and "run the same command again" in line
    assert "Traceback" not in shown


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCADM_HOME", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which `run` sets


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_server_that_is_killed_before_the_alias_moves_is_one_message_and_the_same_command_finishes(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = EvaluatedProject(tmp_path / "project", server.uri)
    monkeypatch.chdir(project.folder)
    stage.run("register", pipeline.register.main)
    project.evaluate(0.7)
    judge = promotion.judge

    def judge_and_kill(*arguments: Any, **named: Any) -> Verdict:
        server.kill()
        return judge(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(promotion, "judge", judge_and_kill)
        failing(project, capsys)
    server.start()
    assert project.versions == ["1", "2"] and project.aliases == {"candidate": "2", "champion": "1"}, "as it was"
    stage.run("register", pipeline.register.main)
    assert project.versions == ["1", "2"] and project.aliases == {"candidate": "2", "champion": "2"}
    assert project.registration["promoted"] and project.registration["version"] == "2"


MOMENTS = ("search_model_versions", "_create_model_version", "set_model_version_tag", "set_registered_model_alias")


@pytest.mark.usefixtures("in_process")
def test_at_whatever_call_the_registry_fails_the_same_command_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = EvaluatedProject(tmp_path)
    monkeypatch.chdir(tmp_path)
    stage.run("register", pipeline.register.main)

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("nobody answers")

    for number, call in enumerate(MOMENTS, 2):
        project.evaluate(0.65 + number / 100)
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, call, away)
            failing(project, capsys)
        assert project.aliases["champion"] == str(number - 1), f"{call}: as it was"
        stage.run("register", pipeline.register.main)
        assert project.versions == [str(known) for known in range(1, number + 1)], f"{call}: registered once"
        assert project.aliases["champion"] == project.registration["version"] == str(number)


@pytest.mark.slow
def test_of_a_server_too_only_the_evaluation_is_fetched(
    server: MlflowServer, in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = EvaluatedProject(tmp_path / "project", server.uri)
    monkeypatch.chdir(project.folder)
    stage.run("register", pipeline.register.main)
    fetched: list[str] = []
    download = HttpArtifactRepository._download_file

    def noted(self: HttpArtifactRepository, remote: str, local: str) -> None:
        fetched.append(remote)
        download(self, remote, local)

    monkeypatch.setattr(HttpArtifactRepository, "_download_file", noted)
    version = registry.Registry(server.uri, NAME).by_alias("champion")
    assert version is not None and version.evaluated.metrics["reconstruction"]["model"]["ssim"] == 0.65
    assert {Path(name).name for name in fetched} == {"metrics.json", "evaluation.json", "faces.csv", "card.md"}
