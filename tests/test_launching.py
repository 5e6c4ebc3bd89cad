"""A stage as a Ray job, seen from the launcher: what it refuses, which job it follows, and what it believes.

The cluster's jobs are a list in this process; the storage root is a file:// address. `test_submit.py` has a real Ray.
"""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from scadm import jobs, profiles
from scadm.app import cli
from scadm.cluster import follow, launch
from scadm.cluster.follow import next_id, submissions
from scadm.files import results, sharing
from scadm.files.manifest import Manifest
from scadm.files.results import Result
from scadm.files.store import Store
from scadm.stage import Stage, content, run

ROOT = Path(__file__).resolve().parents[1]
HERE, AWAY = "http://127.0.0.1:8265", "http://cluster.example:8265"
OUTS = ("models/train.json", "reports/training.csv", "reports/validation.csv")


class Jobs:
    """Stands in for a cluster's jobs: each runs to its end when it is followed, by a function of its submission id."""

    def __init__(self, work: Callable[[str], JobStatus]) -> None:
        self.work = work
        self.jobs: dict[str, JobStatus] = {}
        self.requests: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def list_jobs(self) -> list[Any]:
        return [SimpleNamespace(submission_id=name, status=status) for name, status in self.jobs.items()]

    def submit_job(self, **request: Any) -> str:
        assert request["submission_id"] not in self.jobs
        self.requests.append(request)
        self.jobs[request["submission_id"]] = JobStatus.PENDING
        return request["submission_id"]

    def get_job_status(self, name: str) -> JobStatus:
        return self.jobs[name]

    def get_job_info(self, name: str) -> Any:
        return SimpleNamespace(message="it broke")

    def stop_job(self, name: str) -> None:
        self.stopped.append(name)
        self.jobs[name] = JobStatus.STOPPED

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        if not self.jobs[name].is_terminal():
            self.jobs[name] = self.work(name)
        yield f"log of {name}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose inputs of `train` exist, with a remote storage root and a server, as the current folder."""
    for name in (jobs.HOME, jobs.DATA, "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(follow, "_EVERY", 0.01)
    folder = tmp_path / "project"
    for name in ("scadm", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir()
    for name in ("dvc.yaml", ".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "params.yaml").write_text(profiles.render("quickstart", ROOT / "conf"))
    for name in ("data/shards", "models/autoencoder"):
        (folder / name).mkdir(parents=True)
        Manifest(stage=name).write(folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    configure(**{"storage.root": f"file://{tmp_path}/bucket", "tracking.uri": "http://127.0.0.1:5000"})
    return folder


def configure(**values: Any) -> None:
    tree = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in values.items():
        section, name = key.split(".")
        tree[section][name] = value
    Path("params.yaml").write_text(yaml.safe_dump(tree))


def trained(stage: Stage, submission: str, text: str = "made") -> Result:
    """What a job that has trained leaves at a remote storage root."""
    outs = {}
    for out in OUTS:
        path = Path(stage.workspace).parent / "job" / out
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{out} {text}")
        outs[out] = content(path)
        sharing.share(path, Store(sharing.copy_place(stage.storage_root, outs[out])))
    result = Result(stage.run_key, submission, outs)
    results.write(stage.storage_root, "train", result)
    return result


def succeed(name: str) -> JobStatus:
    trained(Stage("train"), name)
    return JobStatus.SUCCEEDED


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Jobs]:
    def made(work: Callable[[str], JobStatus] = succeed) -> Jobs:
        found = Jobs(work)
        monkeypatch.setattr(launch, "client_at", lambda address: found)
        return found

    return made


# --- the job that is followed ---------------------------------------------------------------------------


def test_a_stage_is_submitted_followed_and_its_outs_are_here(
    project: Path, cluster: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, stage = cluster(), Stage("train")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    launch.launch(stage, HERE)
    (request,) = found.requests
    assert request["submission_id"] == f"scadm-train-{stage.run_key}"
    assert request["entrypoint"] == "python -m pipeline.train"
    assert request["runtime_env"]["working_dir"] == str(project)
    sent = {"SCADM_HOME": "", "SCADM_DATA": "", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert request["runtime_env"]["env_vars"] == sent, "credentials are not sent"
    assert (project / "models/train.json").read_text() == "models/train.json made"
    assert sharing.Shared.read(project) is not None
    said = capsys.readouterr().out
    assert f"log of scadm-train-{stage.run_key}" in said and " files, 0." in said


def test_running_again_takes_the_outs_without_a_job(
    project: Path, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cluster()
    launch.launch(Stage("train"), HERE)
    for out in OUTS:
        (project / out).unlink()  # as DVC does before it runs a stage
    launch.launch(Stage("train"), HERE)
    assert len(found.requests) == 1
    assert (project / "models/train.json").read_text() == "models/train.json made"
    assert "has done it" in capsys.readouterr().out
    # Weights to start from may be others by now under the same name: the job finds out.
    configure(**{"training.init_from": "models:/a@champion"})
    launch.launch(Stage("train"), HERE)
    launch.launch(Stage("train"), HERE)
    assert len(found.requests) == 3


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_a_job_that_is_at_it_is_followed(project: Path, cluster: Any, status: JobStatus) -> None:
    found, name = cluster(), f"scadm-train-{Stage('train').run_key}"
    found.jobs[name] = JobStatus.FAILED
    found.jobs[f"{name}-2"] = status
    launch.launch(Stage("train"), HERE)
    assert found.requests == []
    assert results.require(Stage("train").storage_root, "train", Stage("train").run_key, f"{name}-2")


def test_after_one_that_failed_there_is_another_with_the_next_number(project: Path, cluster: Any) -> None:
    found = cluster(lambda name: JobStatus.FAILED)
    base = f"scadm-train-{Stage('train').run_key}"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"ended as FAILED: it broke\. .*ray job logs --address http://127"):
            launch.launch(Stage("train"), HERE)
    found.work = succeed
    launch.launch(Stage("train"), HERE)
    assert [request["submission_id"] for request in found.requests] == [base, f"{base}-2", f"{base}-3"]


def test_ids_of_other_runs_and_stages_are_not_attempts() -> None:
    names = ["scadm-train-ab", "scadm-train-ab-3", "scadm-train-abc", "scadm-train-ab-x", "scadm-latents-ab", None]
    client: Any = SimpleNamespace(list_jobs=lambda: [SimpleNamespace(submission_id=name) for name in names])
    found = submissions(client, "scadm-train-ab")
    assert [job.submission_id for job in found] == ["scadm-train-ab", "scadm-train-ab-3"]
    assert next_id(found, "scadm-train-ab") == "scadm-train-ab-4"
    assert next_id([], "scadm-train-ab") == "scadm-train-ab"


# --- what is believed -----------------------------------------------------------------------------------


def test_success_without_a_result_is_an_error(project: Path, cluster: Any) -> None:
    cluster(lambda name: JobStatus.SUCCEEDED)
    with pytest.raises(ValueError, match=r"Ray says that the job scadm-train-\w+ has succeeded, but its result .*"):
        launch.launch(Stage("train"), HERE)
    assert not (project / "models/train.json").exists()


def test_success_with_another_job_s_result_is_an_error(project: Path, cluster: Any) -> None:
    def other(name: str) -> JobStatus:
        trained(Stage("train"), "raysubmit_1")
        return JobStatus.SUCCEEDED

    cluster(other)
    with pytest.raises(ValueError, match=r"and job raysubmit_1, expected \w{16} and scadm-train-"):
        launch.launch(Stage("train"), HERE)


@pytest.mark.parametrize("text", ["{", "[]", '{"run_key": "a"}'])
def test_a_torn_result_is_none(tmp_path: Path, text: str) -> None:
    results.place(f"file://{tmp_path}", "train", "a").write(results.NAME, text.encode())
    assert results.read(f"file://{tmp_path}", "train", "a") is None


def test_a_result_whose_copies_are_gone_is_made_again(project: Path, cluster: Any) -> None:
    found, stage = cluster(), Stage("train")
    result = trained(stage, "raysubmit_1")
    shutil.rmtree(Store(sharing.copy_place(stage.storage_root, result.outs["models/train.json"])).path)
    launch.launch(stage, HERE)
    assert len(found.requests) == 1


def test_outs_in_another_folder_than_this_one_are_an_error(project: Path, cluster: Any, tmp_path: Path) -> None:
    configure(**{"storage.root": "storage", "tracking.uri": "sqlite"})

    def elsewhere(name: str) -> JobStatus:
        stage = Stage("train")
        results.write(stage.storage_root, "train", Result(stage.run_key, name, dict.fromkeys(OUTS, "d")))
        return JobStatus.SUCCEEDED

    found = cluster(elsewhere)
    with pytest.raises(ValueError, match=r"models/train\.json is not there: the nodes see another folder"):
        launch.launch(Stage("train"), HERE)
    sent = found.requests[0]["runtime_env"]["env_vars"]
    assert (sent["SCADM_HOME"], sent["SCADM_DATA"]) == (str(project), str(project))


# --- what is refused, and where a stage runs -------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "settings", "said"),
    [
        (AWAY, {"storage.root": "storage"}, r"storage\.root is storage, a folder of this machine.*s3://.*SCADM_HOME"),
        (AWAY, {"tracking.uri": "sqlite"}, r"tracking\.uri is sqlite, a file of this machine"),
        (AWAY, {}, r"tracking\.uri is http://127\.0\.0\.1:5000, this machine's own address"),
        (HERE, {"tracking.uri": "sqlite"}, r"tracking\.uri is sqlite, a file of this machine"),
    ],
)
def test_places_of_this_machine_alone_are_refused_before_anything_is_sent(
    project: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, address: str, settings: dict[str, str], said: str
) -> None:
    found = cluster()
    configure(**settings)
    with pytest.raises(ValueError, match=said):
        launch.launch(Stage("train"), address)
    assert found.requests == [] and not (project.parent / "bucket").exists()
    monkeypatch.setenv(jobs.HOME, str(project))
    launch.require_reachable_settings(Stage("train"), address)


def test_nobody_at_the_address_is_said(project: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing answers at http://127\.0\.0\.1:1: .*`ray start --head`"):
        launch.launch(Stage("train"), "http://127.0.0.1:1")


def test_stages_without_ray_are_no_jobs(project: Path) -> None:
    with pytest.raises(ValueError, match="stage register uses no Ray: expected one of masks, latents, train, evaluate"):
        launch.launch(Stage("register"), HERE)


@pytest.mark.parametrize("how", ["cluster.address", "RAY_ADDRESS"])
def test_a_stage_s_program_launches_itself_outside_of_jobs(
    project: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(launch, "launch", lambda stage, address: ran.append(f"{stage.name} at {address}"))
    if how == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", HERE)
    else:
        configure(**{"cluster.address": HERE})
    run("train", lambda stage: ran.append("train here"))
    run("register", lambda stage: ran.append("register here"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "a"}}))
    run("train", lambda stage: ran.append("train in the job"))
    assert ran == [f"train at {HERE}", "register here", "train in the job"]


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://localhost:1", True),
        (HERE, True),
        ("http://[::1]:1", True),
        (AWAY, False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback(address: str, own: bool) -> None:
    assert jobs.is_loopback(address) == own


def test_outs_to_share_are_named_by_themselves_or_by_a_stage(project: Path) -> None:
    assert launch.names_to_share(project, ["train"]) == ["data/shards", "models/autoencoder"]
    assert launch.names_to_share(project, ["data/raw"]) == ["data/raw"]
    assert launch.names_to_share(project, []) == ["models/autoencoder", "data/shards"], "what is there"
    with pytest.raises(ValueError, match="no stage 'trian', expected one of download, masks"):
        launch.names_to_share(project, ["trian"])


def test_sharing_is_for_remote_roots_and_git_says_nothing_of_it(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    stage = Stage("train")
    for _ in range(2):
        launch.share(stage, stage.inputs)
    assert (project / ".git/info/exclude").read_text().count("/shared.json") == 1
    listed = subprocess.run(["git", "status", "--porcelain", "-uall"], check=True, capture_output=True).stdout
    assert b"shared.json" not in listed and b"dvc.yaml" in listed
    configure(**{"storage.root": "storage"})
    with pytest.raises(ValueError, match=r"storage\.root is .*/storage, a folder: outs are shared through an address"):
        launch.share(Stage("train"), [])


# --- following and interrupting -------------------------------------------------------------------------


class Broken:
    """A job of ten lines whose connection is cut now and then, and whose head is away for a while."""

    def __init__(self) -> None:
        self.lines = [f"line {i}\n" for i in range(10)]
        self.written, self.refused = 0, 3

    def get_job_status(self, name: str) -> JobStatus:
        if self.written == 6 and self.refused:
            self.refused -= 1
            raise requests.ConnectionError("refused")
        return JobStatus.RUNNING if self.written < 10 else JobStatus.SUCCEEDED

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.written = min(self.written + 3, 10)
        yield "".join(self.lines[:2])
        await asyncio.sleep(0)
        yield "".join(self.lines[2 : self.written])
        if self.written < 10:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def list_jobs(self) -> list[Any]:
        return [SimpleNamespace(submission_id="a")]


def test_a_log_goes_on_where_the_connection_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_EVERY", 0.0)
    shown: list[str] = []
    said: list[str] = []
    client: Any = Broken()
    assert follow.follow(client, "a", shown.append, said.append) == JobStatus.SUCCEEDED
    assert "".join(shown) == "".join(f"line {i}\n" for i in range(10))
    assert ["lost" in line for line in said] == [True, False] * (len(said) // 2) and len(said) >= 2, said


def test_a_head_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_EVERY", 0.0)

    def gone(name: str) -> JobStatus:
        raise requests.ConnectionError("refused")

    def starting(name: str = "") -> JobStatus:
        raise RuntimeError("Request failed with status code 503: try later.")

    client: Any = SimpleNamespace(get_job_status=gone)
    with pytest.raises(ValueError, match=r"no answer of the job a for 0\.05 s \(refused\).*attaches to it again"):
        follow.follow(client, "a", print, print, patience=0.05)
    client = SimpleNamespace(get_job_status=starting, list_jobs=starting)
    with pytest.raises(ValueError, match=r"no answer of the job a for 0\.05 s .*503.*attaches to it again"):
        follow.follow(client, "a", print, print, patience=0.05)


def test_a_job_that_the_cluster_forgot_ends_the_following_at_once() -> None:
    def forgotten(name: str) -> JobStatus:
        raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")

    others = [SimpleNamespace(submission_id="b")]
    client: Any = SimpleNamespace(get_job_status=forgotten, list_jobs=lambda: others)
    with pytest.raises(ValueError, match=r"knows the job a no more: its head was replaced.*same command submits it"):
        follow.follow(client, "a", print, print)
    others.append(SimpleNamespace(submission_id="a"))
    with pytest.raises(ValueError, match="no answer of the job a for 0"):
        follow.follow(client, "a", print, print, patience=0)


@pytest.mark.parametrize(("answer", "stopped"), [("y", True), ("", False), (None, False)])
def test_ctrl_c_asks_whether_the_job_ends_too(
    project: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, answer: str | None, stopped: bool
) -> None:
    def interrupt(name: str) -> JobStatus:
        raise KeyboardInterrupt

    found, name = cluster(interrupt), f"scadm-train-{Stage('train').run_key}"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: answer is not None))
    monkeypatch.setattr("builtins.input", lambda question: answer)
    with pytest.raises(SystemExit) as left:
        launch.launch(Stage("train"), HERE)
    assert left.value.code == 130
    assert found.stopped == ([name] if stopped else [])
    said = capsys.readouterr().out
    assert f"the job {name} " + ("is stopped" if stopped else "goes on; the same command follows it again") in said


def test_ctrl_c_while_the_head_is_away_is_one_message(
    project: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt(name: str) -> JobStatus:
        raise KeyboardInterrupt

    def away(name: str) -> None:
        raise requests.ConnectionError("refused")

    found, name = cluster(interrupt), f"scadm-train-{Stage('train').run_key}"
    found.stop_job = away
    configure(**{"cluster.address": HERE})
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: "y")
    with pytest.raises(SystemExit) as left:
        run("train", lambda stage: None)
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert f"error in stage train: the Ray head at {HERE} answers no more (refused)" in said
    assert f"The job may go on: `ray job stop --address {HERE} {name}` ends it, the same command follows it" in said


@pytest.mark.parametrize("call", ["list_jobs", "get_job_info"])
def test_a_head_that_goes_away_meanwhile_is_one_message(project: Path, cluster: Any, call: str) -> None:
    def away(*_: object) -> None:
        raise RuntimeError("Request failed with status code 503: gone.")

    setattr(cluster(lambda name: JobStatus.FAILED), call, away)
    with pytest.raises(ValueError, match=rf"the Ray head at {HERE} answers no more \(.*503.*The (same|job)"):
        launch.launch(Stage("train"), HERE)


@pytest.mark.parametrize("how", ["stage", "scadm submit", "scadm share"])
def test_a_store_that_is_away_is_one_message(
    project: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, how: str
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    cluster()
    configure(**{"storage.root": "s3://bucket/path", "cluster.address": HERE})
    monkeypatch.setattr("sys.argv", [*how.split(), "train"])
    with pytest.raises(SystemExit) as left:
        run("train", lambda stage: None) if how == "stage" else cli.main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "storage.root is s3://bucket/path, expected a store that answers this machine: " in said
    assert "NETWORK_CONNECTION" in said and "the same command goes on from there" in said


def test_a_head_that_wants_a_token_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(address: str) -> None:
        raise AuthenticationError("RAY_AUTH_MODE is currently 'disabled'")

    monkeypatch.setattr(follow, "JobSubmissionClient", refuses)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"http://127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"the jobs of {address} cannot be used: .*disabled.*RAY_AUTH_MODE=token"):
            follow.client_at(address)
