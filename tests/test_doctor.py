"""`scadm doctor`: a good project has no fault, and each thing that is wrong is named with its remedy."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from projects import ROOT, Project

from scadm import profiles, tracking
from scadm.app import doctor, machine
from scadm.app.doctor import Finding, Gpus
from scadm.cluster import probe
from scadm.config import Params, validate
from scadm.files.store import Store


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the checks read, as the current one."""
    for name in ("RAY_ADDRESS", "SCADM_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    for name in ("scadm/data/synthetic", "conf/no_images"):
        (folder / name).mkdir(parents=True)
    (folder / ".dvc").mkdir()
    for name in ("pyproject.toml", "constraints.txt", ".dvc/config"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(profiles.render("smoke", ROOT / "conf"))
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    monkeypatch.chdir(folder)
    return folder


def params(**changes: Any) -> Params:
    """Those of the profile `smoke`; `cluster__workers=0` changes a value."""
    tree = yaml.safe_load(profiles.render("smoke", ROOT / "conf"))
    for key, value in changes.items():
        *sections, name = key.split("__")
        part = tree
        for section in sections:
            part = part[section]
        part[name] = value
    return validate(tree, "test")


def only(findings: Iterator[Finding], mark: str) -> Finding:
    (finding,) = findings
    assert finding.mark == mark, finding
    assert bool(finding.remedy) == (mark != "ok")
    return finding


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of the loopback at which nothing listens, and nothing else can."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which a connection is taken, and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# --- the command line -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_good_project_is_ready_and_left_as_it_was(tmp_path: Path) -> None:
    project = Project.clone(tmp_path / "project")
    done = project.run("scadm", "doctor")
    *lines, last = done.stdout.splitlines()
    checks = [check.__name__ for check in (*doctor.ENVIRONMENT, *doctor.CONFIGURED)]
    assert {line.split()[1] for line in lines if not line.startswith(" ")} == {*checks, "parameters"}
    assert not any(line.startswith("fault") for line in lines), done.stdout
    assert "a private Ray: a task ran" in done.stdout
    assert last == "Ready: `dvc repro` runs the pipeline."
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert not any((project.folder / name).exists() for name in ("storage", "data", ".work"))
    assert project.processes() == {}, "Ray has ended"


def test_a_fault_is_two_lines_and_exit_status_1(project: Path) -> None:
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("steps: 40", "steps: forty"))
    done = subprocess.run(
        [sys.executable, "-c", "from scadm.app.cli import main; main()", "doctor"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    *_, fault, remedy, last = done.stdout.splitlines()
    assert fault.startswith("fault  parameters  params.yaml is not valid: training.steps = 'forty'")
    assert remedy.startswith(" " * 19 + "-> mend it, or `scadm profile quickstart`")
    assert last == "1 fault(s): mend them before `dvc repro`."
    assert "Traceback" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "colours are for a terminal"


def test_no_line_holds_a_password_of_an_address(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://me:S3cret@127.0.0.1:1/{'x' * 275}"

    def away() -> Iterator[Finding]:
        yield Finding("note", "away", f"{uri} is away", f"start {uri}")
        raise OSError(f"{'x' * 270} {uri}")  # the message is cut within the password

    monkeypatch.setattr(doctor, "ENVIRONMENT", (away,))
    monkeypatch.setattr(doctor, "CONFIGURED", ())
    shown = "\n".join(line for finding in doctor.examine() for line in finding.lines())
    assert "S3c" not in shown, shown
    assert shown.count("http://***@") == 3 and "the check failed: OSError" in shown


def test_a_check_that_fails_is_a_fault_and_the_others_go_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("ok", "broken", "half of it")
        raise KeyError("a\nsurprise")

    monkeypatch.setattr(doctor, "ENVIRONMENT", (broken, doctor.python))
    monkeypatch.setattr(doctor, "CONFIGURED", ())
    found = list(doctor.examine())
    assert [(finding.mark, finding.what) for finding in found] == [
        *[("ok", "broken"), ("fault", "broken"), ("ok", "python"), ("ok", "parameters")]
    ]
    assert "the check failed: KeyError: 'a\\nsurprise'" in found[1].found
    assert "pip install -c constraints.txt -e ." in found[1].remedy


def test_outside_of_a_project_every_line_is_still_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = {finding.what: finding for finding in doctor.examine()}
    assert {finding.mark for finding in found.values()} == {"fault"}
    assert "params.yaml does not exist" in found["parameters"].found
    assert "run this from the project's folder" in found["python"].remedy
    assert not any("\n" in line for finding in found.values() for line in finding.lines())


# --- the environment ------------------------------------------------------------------------------------


def test_the_version_of_python(project: Path) -> None:
    only(doctor.python(), "ok")
    text = (project / "pyproject.toml").read_text()
    for wanted in (">=3.4,<3.5", ">=3.98,<3.99"):
        (project / "pyproject.toml").write_text(text.replace(">=3.11,<3.14", wanted))
        fault = only(doctor.python(), "fault")
        assert wanted in fault.found and "make env PYTHON=" in fault.remedy


def test_packages_against_their_pins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("Some.Thing", "1.5+cpu"), ("other-thing", "2.0")):
        folder = project / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(project / "site"))

    def check(dependencies: list[str], pins: str) -> Iterator[Finding]:
        (project / "pyproject.toml").write_text(f'[project]\nname = "x"\ndependencies = {dependencies!r}\n')
        (project / "constraints.txt").write_text(pins)
        return doctor.packages()

    assert (
        "all 2"
        in only(check(["some-thing[extra]>=1", "other-thing"], "some_thing==1.5\nother-thing==2.0\n"), "ok").found
    )
    note = only(check(["some-thing", "other-thing"], "some-thing==1.5\nother-thing==2.1\n"), "note")
    assert note.found == "not as in constraints.txt: other-thing 2.0 (pinned: 2.1)"
    assert note.remedy == "`pip install -c constraints.txt -e .`"
    fault = only(check(["other-thing", "no-such-thing"], "no-such-thing==1.0\nother-thing==2.1\n"), "fault")
    assert fault.found.startswith("not installed: no-such-thing; not as in constraints.txt: other-thing")
    assert fault.remedy == "`pip install -c constraints.txt -e .`"


def test_git_and_dvc(project: Path) -> None:
    assert "0 DVC remote(s)" in only(doctor.repository(), "ok").found
    with (project / ".dvc/config").open("a") as config:
        config.write("['remote \"team\"']\n    url = azure://faces/dvc\n")
    assert importlib.util.find_spec("dvc_azure") is None, "nothing here declares it"
    assert only(doctor.repository(), "note").remedy == "`pip install dvc-azure`"
    shutil.rmtree(project / ".dvc")
    assert "`dvc init`" in only(doctor.repository(), "fault").remedy
    shutil.rmtree(project / ".git")
    assert "git init" in only(doctor.repository(), "fault").remedy


# --- what the parameters ask for ------------------------------------------------------------------------


def test_inputs_that_are_not_there(project: Path) -> None:
    only(doctor.inputs(params()), "ok")
    given = {"data__source": "celebamask-hq", "data__path": "faces.zip", "autoencoder__kind": "vq-f4"}
    fault = only(doctor.inputs(params(**given)), "fault")
    assert fault.found == "not there: data.path faces.zip, autoencoder.weights null"
    assert "params.yaml" in fault.remedy
    assert next(doctor.inputs(params(metrics__lpips="vgg.pth"))).found == "not there: metrics.lpips vgg.pth"


def test_inputs_that_are_fetched_are_named_not_looked_for(project: Path) -> None:
    (project / "scadm/data/fetch.py").touch()
    data = {"data__source": "celebamask-hq", "data__path": "scadm/data/fetch.py", "data__addresses": ["drive:ID"]}
    weights = {"autoencoder__kind": "vq-f4", "autoencoder__weights": "https://localhost/vq-f4.zip"}
    given = params(**data, **weights)
    found = only(doctor.inputs(given), "ok").found
    assert "data.addresses from drive:ID" in found
    assert "autoencoder.weights from https://localhost/vq-f4.zip" in found
    assert doctor.data_bytes(given) > 6e9, "the archive's 3 GB, not the size of the code that fetches it"


@pytest.mark.parametrize(
    ("asked", "package", "extra"),
    [
        ({"parser__kind": "facer", "parser__weights": "https://localhost/facer.pt"}, "facer", "faces"),
        ({"metrics__lpips": "https://localhost/alexnet.pth"}, "torchvision", "metrics"),
        ({"metrics__inception": "https://localhost/inception.pth"}, "torch_fidelity", "metrics"),
    ],
)
def test_a_package_of_an_extra(
    project: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], package: str, extra: str
) -> None:
    there = {"facer", "torchvision", "torch_fidelity"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in there else None)
    assert next(value for value in asked.values() if "://" in value) in only(doctor.inputs(params(**asked)), "ok").found
    there.remove(package)
    fault = only(doctor.inputs(params(**asked)), "fault")
    assert f"needs {package}, and that is not installed" in fault.found
    assert fault.remedy == f"`pip install -c constraints.txt -e '.[{extra}]'`"


def test_what_a_run_needs() -> None:
    here = {
        name: validate(yaml.safe_load(profiles.render(name, ROOT / "conf")), name)
        for name in profiles.names(ROOT / "conf")
    }
    small, paper = here["quickstart"], here["celebamask-hq"]
    assert doctor.data_bytes(small) + doctor.storage_bytes(small) < 0.5e9
    assert 40e9 < doctor.data_bytes(paper) + doctor.storage_bytes(paper) < 80e9
    assert doctor.memory_bytes(small, trains_here=True) == pytest.approx(4e9, rel=0.02), "as README says"
    training = doctor.memory_bytes(paper, trains_here=True) - doctor.memory_bytes(paper, trains_here=False)
    assert training == pytest.approx(10.1e9, rel=0.01), "a checkpoint of 8.1 GB and the best weights, being written"
    two = paper.model_copy(update={"cluster": paper.cluster.model_copy(update={"workers": 2})})
    assert doctor.memory_bytes(two, trains_here=True) - doctor.memory_bytes(paper, trains_here=True) == pytest.approx(
        8.08e9, rel=0.01
    ), "moments that another worker reads"


def test_a_need_that_is_nearly_met_is_a_note() -> None:
    marks = [
        doctor._enough("disk", "here", free, 4 * 10**9, "free some").mark for free in (4 * 10**9, 3 * 10**9, 10**9)
    ]
    assert marks == ["ok", "note", "fault"]


def test_more_disk_and_memory_than_there_is(project: Path) -> None:
    fault = only(doctor.disk(params(data__synthetic__count=10**9)), "fault")
    assert "data, .work, storage" in fault.found and "dvc gc" in fault.remedy
    assert "for data, .work; " in only(doctor.disk(params(storage__root="s3://bucket/x")), "ok").found
    fault = only(doctor.memory(params(cluster__object_store_mb=10**9)), "fault")
    assert "cluster.workers" in fault.remedy


def test_more_workers_than_cores(project: Path) -> None:
    only(doctor.cores(params(cluster__workers=1)), "ok")
    many = 1024
    wide = params(cluster__workers=many, training__batch_size=many, training__micro_batch=1)
    note = only(doctor.cores(wide), "note")
    advised = int(note.remedy.rpartition("-S cluster.workers=")[2].strip("`"))
    assert 1 <= advised <= (os.cpu_count() or 1)
    assert params(cluster__workers=advised, training__batch_size=many, training__micro_batch=1)
    away = wide.model_copy(update={"cluster": wide.cluster.model_copy(update={"address": "10.0.0.1:6379"})})
    only(doctor.cores(away), "ok")


def test_the_advised_workers_share_a_batch() -> None:
    twelve = params(training__batch_size=12, training__micro_batch=3)
    assert [doctor._fitting_workers(twelve, most) for most in (1, 3, 5, 64)] == [1, 2, 4, 12]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_limits_of_a_container(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("0::/outer/inner\n")
    write(
        root / "outer", memory__max="3000000", memory__current="2000000", memory__stat="anon 5\ninactive_file 500000\n"
    )
    write(
        root / "outer/inner", memory__max="max", memory__current="1", memory__stat="anon 1\n", cpu__max="150000 100000"
    )
    groups = list(machine.cgroups(root, own))
    assert groups == [root / "outer/inner", root / "outer", root]
    assert machine.free_memory(groups) == 1_500_000
    assert machine.cores(groups) == 1
    assert machine.cores([]) >= 1
    assert machine.free_memory([]) > 1_500_000


def test_the_limits_of_a_container_of_the_older_kind(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("3:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n")  # paths of the host, not there within
    write(
        root / "memory",
        memory__limit_in_bytes="900",
        memory__usage_in_bytes="1000",
        memory__stat="total_inactive_file 30\n",
    )
    write(root / "cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    groups = list(machine.cgroups(root, own))
    assert groups == [root / "memory", root / "cpu,cpuacct"]
    assert machine.free_memory(groups) == 0
    assert machine.cores(groups) == machine.cores([])


# --- GPUs -----------------------------------------------------------------------------------------------

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_a_gpu_that_is_not_there() -> None:
    only(doctor.gpu(params()), "ok")
    fault = only(doctor.gpu(params(cluster__use_gpu=True)), "fault")
    assert "-S cluster.use_gpu=false" in fault.remedy or "nvidia-smi" in fault.remedy


@no_gpu
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is a build for GPUs")
def test_a_driver_and_a_torch_for_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for use, mark in ((False, "note"), (True, "fault")):
        finding = only(doctor.gpu(params(cluster__use_gpu=use)), mark)
        assert "this torch is a build for CPUs" in finding.found
        assert "pip install -c constraints.txt --force-reinstall torch" in finding.remedy


def test_gpus_against_the_parameters() -> None:
    one = Gpus(("NVIDIA A, 24 GB",), "2.13.0", for_gpus=True, driver=True)

    def judged(found: Gpus, *, here: bool = True, **changes: Any) -> Finding:
        return doctor.judge_gpus(found, params(**changes), here)

    assert judged(one, cluster__use_gpu=True, cluster__workers=1).mark == "ok"
    idle = judged(one, cluster__workers=2)
    assert idle.mark == "note" and "NVIDIA A, 24 GB" in idle.found
    assert "dvc exp run -S cluster.use_gpu=true -S cluster.workers=1" in idle.remedy
    short = judged(one, cluster__use_gpu=True, cluster__workers=2)
    assert short.mark == "fault" and "-S cluster.workers=1" in short.remedy
    old = judged(Gpus((), "2.13.0", for_gpus=True, driver=True, said="driver too old"), cluster__use_gpu=True)
    assert old.mark == "fault" and "driver too old" in old.found and "nvidia-smi" in old.remedy
    assert judged(Gpus((), "2.13.0", False, False), here=False, cluster__use_gpu=True).mark == "ok"


# --- storage --------------------------------------------------------------------------------------------


def test_a_storage_root_is_written_to_and_left_as_it_was(project: Path) -> None:
    before = sorted(path.name for path in project.iterdir())
    assert str(project / "storage") in only(doctor.storage(params()), "ok").found
    assert sorted(path.name for path in project.iterdir()) == before


def test_a_storage_root_below_a_file(project: Path) -> None:
    (project / "file").touch()
    fault = only(doctor.storage(params(storage__root="file/storage")), "fault")
    assert f"let {project}/file be a folder that you may write to" in fault.remedy
    assert (project / "file").is_file()


def test_an_address_of_an_unknown_kind(project: Path) -> None:
    fault = only(doctor.storage(params(storage__root="ftp://host/x")), "fault")
    assert "ftp" in fault.found and "an address that begins with s3://" in fault.remedy


def test_a_bucket(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")  # what moto accepts: anything
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="faces")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        only(doctor.storage(params(storage__root="s3://faces/runs")), "ok")
        left = [entry["Key"] for entry in client.list_objects_v2(Bucket="faces").get("Contents", [])]
        assert not any("doctor" in key for key in left), left
        fault = only(doctor.storage(params(storage__root="s3://nowhere/runs")), "fault")
        assert "the bucket exists" in fault.remedy
    finally:
        server.stop()


# --- MLflow ---------------------------------------------------------------------------------------------


def test_a_store_that_is_there_and_one_that_is_not(project: Path) -> None:
    assert "no store yet" in only(doctor.mlflow(params()), "ok").found
    assert not (project / "storage").exists(), "the first run makes it"
    config = params().tracking
    tracking.open_run(config, project, "1111", name="one", params={}, tags={}, dataset=None)
    assert "1 runs in experiment sca-dm" in only(doctor.mlflow(params()), "ok").found
    assert "no experiment other yet" in only(doctor.mlflow(params(tracking__experiment="other")), "ok").found
    (project / "storage/mlflow.db").write_text("this is not a database, " * 100)
    fault = only(doctor.mlflow(params()), "fault")
    assert "not a database" in fault.found and "move a damaged one away" in fault.remedy
    assert f"mlflow db upgrade sqlite:///{project}/storage/mlflow.db" in fault.remedy


def test_a_store_in_a_folder_that_cannot_be_made(project: Path) -> None:
    (project / "file").touch()
    fault = only(doctor.mlflow(params(tracking__uri=f"sqlite:///{project}/file/mlflow.db")), "fault")
    assert f"let {project}/file be a folder that you may write to" in fault.remedy


def test_an_mlflow_server_that_is_not_there(project: Path, closed_port: int) -> None:
    fault = only(doctor.mlflow(params(tracking__uri=f"http://127.0.0.1:{closed_port}")), "fault")
    assert f"http://127.0.0.1:{closed_port}" in fault.found
    assert "mlflow server" in fault.remedy and "tracking.uri" in fault.remedy


def test_an_mlflow_server_that_does_not_answer(
    project: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_SECONDS_FOR_MLFLOW", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    start = time.monotonic()
    only(doctor.mlflow(params(tracking__uri=f"http://127.0.0.1:{silent_port}")), "fault")
    assert time.monotonic() - start < 20
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


# --- Ray ------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_not_there(project: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (f"127.0.0.1:{closed_port}", f"ray://127.0.0.1:{closed_port}"):
        fault = only(doctor.ray(params(cluster__address=address)), "fault")
        assert f"nothing answers at {address}" in fault.found
        assert "ray start --head" in fault.remedy and "RAY_AUTH_MODE=token" in fault.remedy
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    assert "nothing answers" in only(doctor.ray(params()), "fault").found


def test_a_cluster_that_does_not_answer(project: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    start = time.monotonic()
    fault = only(doctor.ray(params(cluster__address=f"127.0.0.1:{silent_port}"), seconds=3), "fault")
    assert fault.found == "no task was done within 3 s"
    assert time.monotonic() - start < 20


def test_a_training_that_would_wait_for_ever() -> None:
    on_gpus = params(cluster__use_gpu=True).cluster
    probe._require_resources(on_gpus, {"CPU": 2.0, "GPU": 2.0})
    with pytest.raises(probe.Lacking, match=r"it has 1 GPUs, cluster.workers 2 needs 2"):
        probe._require_resources(on_gpus, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(probe.Lacking, match=r"it has 1 CPUs, cluster.workers 2 needs 2"):
        probe._require_resources(params().cluster, {"CPU": 1.0})
    probe._require_resources(params(cluster__min_workers=1).cluster, {"CPU": 1.0})


def test_the_reason_of_a_private_ray_that_does_not_start(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_TMPDIR", str(project / "pyproject.toml"))  # a file, where Ray needs a folder
    fault = only(doctor.ray(params()), "fault")
    assert "Error" in fault.found and "/tmp/ray/session_latest/logs" in fault.remedy


def test_storage_is_probed_as_checkpoints_are_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "read", lambda *_: b"")
    fault = only(doctor.storage(params()), "fault")
    assert "does not hold what was written" in fault.found
    assert not list(project.glob(".scadm-doctor-*"))
