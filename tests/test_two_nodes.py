"""Two nodes on one machine: what decides whether a trial is good, that nothing stays, and the short form itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from projects import ROOT, wait_for

from infra import environment, findings, project
from infra.machines import Loopback, Namespaces, entering
from infra.two_nodes import _LONGEST as LONGEST_TEMPORARY
from scadm.config import MonitoringConfig, load_params
from scadm.files.store import Store
from scadm.training.journal import Journal


def trial(*words: str, log: Path, **env: str) -> "subprocess.Popen[str]":
    """Start the script. It has its own guard, namespaces without a way out, so that of the tests is left out."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "infra.two_nodes", *words], cwd=ROOT, env=inherited | env, stdout=file, stderr=file,
            text=True, start_new_session=True,
        )  # fmt: skip


def left_by(before: set[int], folder: Path) -> list[str]:
    """Commands of processes that started since, and that have to do with the trial's `folder`."""
    found = []
    for process in psutil.process_iter():
        if process.pid not in before:
            try:
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if str(folder) in words:
                found.append(words)
    return found


def write_log(folder: Path, name: str, *rows: dict[str, object]) -> None:
    place = folder / "session_2026-01-01_00-00-00_1_1" / "logs" / "train"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_ranks_are_read_from_the_logs_of_a_nodes_workers(tmp_path: Path) -> None:
    write_log(tmp_path, "ray-train-app-worker-a.log", {"message": "x", "world_rank": 1}, {"message": "y"})
    write_log(tmp_path, "ray-train-app-controller.log", {"message": "x", "world_rank": 0})
    with next(tmp_path.rglob("*worker-a.log")).open("a") as file:
        file.write('{"message": "cut o')
    assert findings.ranks_of(tmp_path) == {1}


def test_workers_on_one_node_alone_are_refused() -> None:
    findings.require_spread({"node1": {1}, "node2": {0}}, 2)
    with pytest.raises(ValueError, match=r"node1: \[0, 1\], node2: none"):
        findings.require_spread({"node1": {0, 1}, "node2": set()}, 2)
    with pytest.raises(ValueError, match="expected 3 ranks"):
        findings.require_spread({"node1": {0}, "node2": {1}}, 3)


def test_steps_of_the_loss_are_those_that_the_parameters_name() -> None:
    tree = load_params(ROOT / "params.yaml").monitoring.model_dump() | {"log_every": 10}
    monitoring = MonitoringConfig.model_validate(tree)
    assert findings.expected_steps(30, monitoring) == {10, 20, 30}
    assert findings.expected_steps(25, monitoring) == {10, 20, 25}


@pytest.mark.parametrize(
    ("logged", "said"),
    [([5, 10, 10], r"twice \[10\]"), ([5], r"missing \[10\]"), ([5, 10, 11], r"not expected \[11\]")],
)
def test_a_step_that_is_not_there_once_is_named(logged: list[int], said: str) -> None:
    findings.require_once("loss", [5, 10], [5, 10])
    with pytest.raises(ValueError, match=said):
        findings.require_once("loss", logged, [5, 10])


def test_an_mlflow_run_must_be_finished_and_hold_the_journal_once(tmp_path: Path) -> None:
    store, run = f"sqlite:///{tmp_path}/mlflow.db", Store(str(tmp_path / "run"))
    client = MlflowClient(store)
    tracked = client.create_run(
        client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    ).info.run_id
    journal = Journal(run)
    for step in (5, 10):
        journal.add(step, {findings.LOSS: 1.0, "train/rate": 0.1})
        client.log_metric(tracked, findings.LOSS, 1.0, step=step)
    with pytest.raises(ValueError, match="is RUNNING, expected FINISHED"):
        findings.tracked(store, run, {5, 10})
    client.set_terminated(tracked, "FINISHED")
    with pytest.raises(ValueError, match=r"train/rate in MLflow: logged twice \[\], missing \[5, 10\]"):
        findings.tracked(store, run, {5, 10})
    for step in (5, 10):
        client.log_metric(tracked, "train/rate", 0.1, step=step)
    assert "2 metrics, 2 steps of train/loss, each once" in findings.tracked(store, run, {5, 10})
    client.log_metric(tracked, findings.LOSS, 1.0, step=10)
    with pytest.raises(ValueError, match=r"train/loss in MLflow: logged twice \[10\]"):
        findings.tracked(store, run, {5, 10})


def test_an_environment_leads_nowhere_else(tmp_path: Path) -> None:
    inherited = {
        "PATH": "/bin",
        "RAY_ADDRESS": "ray://there",
        "AWS_PROFILE": "mine",
        "HTTPS_PROXY": "http://p",
        "A": "b",
    }
    found = environment.clean(tmp_path, inherited)
    assert found["A"] == "b"
    assert not found.keys() & {"RAY_ADDRESS", "AWS_PROFILE", "HTTPS_PROXY"}
    assert {found["HOME"], found["TMPDIR"]} == {str(tmp_path)}


def test_a_parameter_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("training:\n  steps: 5\n")
    project.change(tmp_path, {"training.steps": 3})
    assert (tmp_path / "params.yaml").read_text() == "training:\n  steps: 3\n"
    with pytest.raises(ValueError, match=r"training\.step is no parameter"):
        project.change(tmp_path, {"training.step": 3})


def test_a_project_without_data_is_refused(tmp_path: Path) -> None:
    process = trial("--project", str(tmp_path), log=tmp_path / "log")
    assert process.wait(timeout=60) == 2
    assert "run `dvc repro latents` there first" in (tmp_path / "log").read_text()


def test_two_loopback_machines_have_addresses_and_ports_of_their_own(tmp_path: Path) -> None:
    network = Loopback(tmp_path)
    ports = network.ports(20)
    assert len(set(ports)) == 20
    assert len({machine.address for machine in network.machines} | {network.hub}) == 3


_TWO_MACHINES = """
import sys
from pathlib import Path
from infra.machines import Namespaces
work = Path(sys.argv[1])
(work / "secret").mkdir()
(work / "secret" / "file").touch()
network = Namespaces(work, [work / "secret"])
for machine in network.machines:
    other = next(m for m in network.machines if m is not machine)
    say = f"hostname; ls -A . {work}/secret {work}/machines; hostname -i; ip route; touch {machine.name}-was-here"
    with open(work / "out", "a") as out:
        network.start(machine, ["sh", "-c", say], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, out).wait(timeout=20)
"""


@pytest.mark.skipif(entering() is None, reason="network namespaces are not allowed here")
def test_a_machine_of_a_namespace_sees_neither_the_other_nor_a_way_out(tmp_path: Path) -> None:
    prefix = entering()
    assert prefix is not None
    subprocess.run([*prefix, sys.executable, "-c", _TWO_MACHINES, str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    said = (tmp_path / "out").read_text()
    for name, address in (("node1", "10.77.0.11"), ("node2", "10.77.0.12")):
        assert f"{name}\n" in said
        assert f"{address}\n" in said
        assert (tmp_path / "machines" / name / f"{name}-was-here").is_file()
    assert "file" not in said and "default" not in said
    assert sorted(path.name for path in (tmp_path / "machines").iterdir()) == ["node1", "node2"]
    assert Namespaces.__name__ not in said


@pytest.mark.parametrize("how", ["namespaces", "loopback"])
def test_a_stopped_trial_leaves_nothing(how: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """While it makes its data by real stages, which have children of their own."""
    if how == "namespaces" and entering() is None:
        pytest.skip("network namespaces are not allowed here")
    # Ray's sockets need short paths, so a long temporary folder would not be used.
    temporary, log = Path(f"/tmp/2t-{os.getpid()}-{how[0]}"), tmp_path_factory.mktemp("trial") / "log"
    assert len(str(temporary)) <= LONGEST_TEMPORARY
    temporary.mkdir()
    before = set(psutil.pids())
    try:
        words = ["--short", *(["--loopback"] if how == "loopback" else [])]
        process = trial(*words, log=log, TMPDIR=str(temporary))
        wait_for("a stage runs", lambda: any("pipeline." in words for words in _all_of(process)), 60)
        process.terminate()
        assert process.wait(timeout=30) == 128 + 15
        assert "stopped by SIGTERM" in log.read_text()
        assert list(temporary.iterdir()) == []
        assert left_by(before, temporary) == []
    finally:
        temporary.rmdir()


def _all_of(process: "subprocess.Popen[str]") -> list[str]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.mark.cluster
def test_the_short_form(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = trial("--short", log=log)
    try:
        status = process.wait(timeout=600)
    finally:
        process.terminate()
        process.wait()
    said = log.read_text()
    assert status == 0, said[-6000:]
    for expected in ("node1 had the training worker", "node2 had the training worker", "/final is complete",
                     "FINISHED", "everything holds"):  # fmt: skip
        assert expected in said, said[-6000:]
