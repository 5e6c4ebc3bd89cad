"""Stages: where they work, what their run key depends on, and whether dvc.yaml watches all that it must."""

import ast
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import Timeout
from projects import wait_for
from toy_faces import ToyFaces

import pipeline.parser
from scadm import profiles, stage
from scadm.files.manifest import FILE_NAME, Manifest, describe_files, sha256
from scadm.stage import Stage, find_data, find_home, work_lock

ROOT = Path(__file__).resolve().parents[1]
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


# --- where ----------------------------------------------------------------------------------------------


def test_home_is_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCADM_HOME", raising=False)
    assert find_home(tmp_path) == tmp_path.resolve()


def test_home_of_a_temporary_experiment_is_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCADM_HOME", raising=False)
    experiment = tmp_path / "project" / ".dvc" / "tmp" / "exps" / "tmp1a2b"
    experiment.mkdir(parents=True)
    assert find_home(experiment) == (tmp_path / "project").resolve()


def test_home_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCADM_HOME", str(tmp_path))
    assert find_home(tmp_path / "elsewhere") == tmp_path
    for wrong in ("relative", str(tmp_path / "missing")):
        monkeypatch.setenv("SCADM_HOME", wrong)
        with pytest.raises(ValueError, match=f"SCADM_HOME is '{wrong}', expected the absolute path"):
            find_home(tmp_path)


def test_data_lie_in_the_workspace_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCADM_HOME", raising=False)
    with pytest.raises(ValueError, match=r"is not the project's folder .*SCADM_HOME=\$PWD ray start"):
        find_data(tmp_path)
    upload, home = tmp_path / "upload", tmp_path / "home"
    upload.mkdir()
    home.mkdir()
    monkeypatch.setenv("SCADM_HOME", str(home))
    assert find_data(upload) == home
    (upload / ".dvc").mkdir()
    assert find_data(upload) == upload


# --- the run key ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quickstart() -> str:
    return yaml.safe_dump(yaml.safe_load(profiles.render("quickstart", ROOT / "conf")))


@pytest.fixture
def project(quickstart: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this project in which every out exists, as the current folder."""
    monkeypatch.delenv("SCADM_HOME", raising=False)
    folder = tmp_path / "project"
    for name in ("scadm", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conf/no_images", "comparisons"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(quickstart)
    for declared in STAGES.values():
        for name in (dep for dep in declared["deps"] if dep.startswith(("data/", "models/", "reports/"))):
            if name.endswith((".json", ".csv")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(json.dumps({"made": name}))
            elif not (folder / name).exists():
                (folder / name).mkdir(parents=True)
                Manifest(stage=name).write(folder / name)
    monkeypatch.chdir(folder)
    return folder


def set_parameter(key: str, value: object) -> None:
    tree = yaml.safe_load(Path("params.yaml").read_text())
    *sections, name = key.split(".")
    part = tree
    for section in sections:
        part = part[section]
    assert part[name] != value, "this would change nothing"
    part[name] = value
    Path("params.yaml").write_text(yaml.safe_dump(tree))


def test_a_run_key_is_sixteen_hex_digits_and_its_own_for_each_stage(project: Path) -> None:
    keys = [Stage(name).run_key for name in STAGES]
    assert all(re.fullmatch(r"[0-9a-f]{16}", key) for key in keys)
    assert len(set(keys)) == len(keys)
    assert keys == [Stage(name).run_key for name in STAGES]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("download", "data.synthetic.count", 7),
        ("masks", "project.resolution", 128),
        ("masks", "data.known_bad", ["00007"]),
        ("autoencoder", "autoencoder.network.codes", 9),
        ("latents", "latents.flip", False),
        ("parser", "parser.training.steps", 9),
        ("parser", "metrics.lpips", "alexnet.pth"),
        ("train", "training.seed", 1),
        ("train", "model.unet.mask_attention", "soft"),
        ("train", "diffusion.no_reference", 0.25),
        ("train", "training.learning_rate", 1e-4),
        ("evaluate", "sampling.steps", 9),
        ("register", "registry.tolerance", 0.1),
    ],
)
def test_it_changes_with_a_parameter_of_the_stage(project: Path, name: str, key: str, value: object) -> None:
    before = Stage(name).run_key
    set_parameter(key, value)
    assert Stage(name).run_key != before


def test_it_does_not_change_with_where_a_stage_runs_or_what_it_logs(project: Path) -> None:
    before = {name: Stage(name).run_key for name in STAGES}
    for key, value in {
        "cluster.workers": 1,
        "cluster.use_gpu": True,
        "cluster.data_workers": 7,
        "cluster.loader_threads": 7,
        "cluster.max_failures": 7,
        "tracking.uri": "http://127.0.0.1:5000",
        "tracking.experiment": "other",
        "monitoring.log_every": 7,
        "monitoring.checkpoint_every": 7,
        "storage.root": "elsewhere",
    }.items():
        set_parameter(key, value)
    assert {name: Stage(name).run_key for name in STAGES} == before


def test_the_training_s_key_does_not_change_with_sampling_evaluation_or_registry(project: Path) -> None:
    before = Stage("train").run_key
    set_parameter("sampling.steps", 9)
    set_parameter("evaluation.samples", 9)
    set_parameter("registry.tolerance", 0.5)
    assert Stage("train").run_key == before


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        ("train", "scadm/training/loop.py", True),
        ("train", "scadm/diffusion/schedule.py", True),
        ("train", "pipeline/train.py", True),
        ("train", "scadm/evaluation/metrics.py", False),
        ("train", "scadm/tracking/run_logger.py", False),
        ("train", "scadm/app/cli.py", False),
        ("masks", "scadm/data/tables.py", True),
        ("masks", "scadm/models/unet.py", False),
        ("download", "scadm/data/synthetic/face.py", True),  # by data.path
        ("autoencoder", "conf/no_images/.gitkeep", True),  # by autoencoder.extra_images
    ],
)
def test_it_changes_with_the_stage_s_own_code(project: Path, name: str, file: str, changes: bool) -> None:
    before = Stage(name).run_key
    (project / file).write_text((project / file).read_text() + "\n# Another content.\n")
    assert (Stage(name).run_key != before) == changes


def test_it_changes_with_an_input(project: Path) -> None:
    before = Stage("train").run_key
    Manifest(stage="latents", resolution=64).write(project / "data/shards")
    assert Stage("train").run_key != before


def test_inputs_are_manifests_files_and_folders(project: Path) -> None:
    assert Stage("train").inputs == {
        name: Manifest.read(project / name).digest for name in ("data/shards", "models/autoencoder")
    }
    assert Stage("register").inputs.keys() == {
        "models/autoencoder",
        "models/train.json",
        "reports/evaluation.json",
        "reports/faces.csv",
        "reports/metrics.json",
    }
    set_parameter("data.source", "folder")
    set_parameter("data.path", "faces")
    with pytest.raises(ValueError, match="faces does not exist"):
        _ = Stage("download").inputs
    (project / "faces").mkdir()
    (project / "faces" / "one.jpg").write_bytes(b"1")
    one = Stage("download").inputs
    (project / "faces" / "two.jpg").write_bytes(b"2")
    assert Stage("download").inputs.keys() == one.keys() == {"faces"}
    assert Stage("download").inputs != one


def test_inputs_are_read_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    content = stage.content

    def counted(path: Path) -> str:
        read.append(path)
        return content(path)

    monkeypatch.setattr(stage, "content", counted)
    latents = Stage("latents")
    assert latents.work_folder().name == f"latents-{latents.run_key}"
    assert latents.inputs.keys() == {"data/onehot", "models/autoencoder"}
    assert len(read) == len(set(read)) > 2


# --- the out --------------------------------------------------------------------------------------------


def test_an_out_appears_by_one_rename(project: Path) -> None:
    latents = Stage("latents")
    work = latents.work_folder()
    assert work.parent == project.resolve() / ".work"
    assert work == Stage("latents").work_folder(), "what a killed run left is found again"
    (work / "train.tar").write_bytes(b"new")
    (project / "data/shards/old.tar").write_bytes(b"old")
    latents.publish(work, "data/shards", Manifest(stage="latents", files=describe_files(work, ["train.tar"])))
    assert not work.exists()
    assert sorted(path.name for path in (project / "data/shards").iterdir()) == [FILE_NAME, "train.tar"]
    Manifest.read(project / "data/shards")


WORKER = """
import os, subprocess, time
from scadm.stage import Stage
folder = Stage("latents").work_folder()
subprocess.Popen(["sleep", "60"])
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(folder, flush=True)
time.sleep(60)
"""


def is_held(folder: Path) -> bool:
    try:
        with work_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


def at_work(code: str) -> "subprocess.Popen[str]":
    """A process that works in a stage's folder, in a group of its own with those that it starts."""
    # The folder's own code comes first, as it does for `python -m`.
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_a_work_folder_is_held_until_its_process_ends(project: Path) -> None:
    """However it ends, and whatever it has started goes on."""
    process = at_work(WORKER)
    assert process.stdout is not None
    try:
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == project / ".work" and is_held(folder)
        process.kill()
        process.wait()
        wait_for("the release of the folder", lambda: not is_held(folder), 10)  # a fork drops it as its first act
        assert Stage("latents").work_folder() == folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_second_process_waits_for_the_first(project: Path) -> None:
    latents = Stage("latents")
    work = latents.work_folder()
    assert is_held(work)
    second = at_work('from scadm.stage import Stage; print(list(Stage("latents").work_folder().iterdir()))')
    assert second.stdout is not None
    assert f"another process is at work in {work}; waiting" in second.stdout.readline()
    (work / "train.tar").write_bytes(b"new")
    latents.publish(work, "data/shards", Manifest(stage="latents"))
    assert second.stdout.readline() == "[]\n", "it finds what the first has not published"
    assert second.wait() == 0 and not is_held(work)


def test_a_fetched_file_s_new_hash_is_said(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vq-f4.ckpt").write_bytes(b"weights")
    address, autoencoder = f"file://{tmp_path}/vq-f4.ckpt", Stage("autoencoder")
    path = autoencoder.located(address, None)
    assert path.parent == project / "downloads" and path.read_bytes() == b"weights"
    shown = capsys.readouterr().out
    assert f"[autoencoder] the sha256 of {address} was not known; {sha256(path)} is recorded" in shown
    assert autoencoder.located(address, None) == path and capsys.readouterr().out == ""


def test_a_small_parser_fetches_no_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_parameter("parser.weights", "http://127.0.0.1:1/parser.pt")  # as after a change of parser.kind alone
    parser = Stage("parser")
    monkeypatch.setattr(parser, "located", lambda *_: pytest.fail("it looks for weights"))
    monkeypatch.setattr(pipeline.parser, "FaceTable", lambda *_: None)
    monkeypatch.setattr(pipeline.parser, "fit_parser", lambda *_: (None, [{"step": 1, "loss": 0.0}]))

    class Saved:
        def __init__(self, *_: object) -> None:
            pass

        def save(self, folder: Path) -> None:
            (folder / "weights").write_bytes(b"weights")

    monkeypatch.setattr(pipeline.parser, "SmallParser", Saved)
    pipeline.parser.main(parser)
    assert Manifest.read(project / "models/parser").files.keys() == {"weights"}


def test_networks_of_metrics_lie_beside_the_parser(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_parameter("parser.kind", "torchscript")
    set_parameter("parser.weights", "net.pt")
    torch.jit.script(torch.nn.Conv2d(3, 19, 1)).save("net.pt")
    asked, held = [], []
    monkeypatch.setattr(Stage, "located", lambda self, named, sha256: asked.append((named, sha256)) or Path(named))

    def save(folder: Path, lpips: Path | None, inception: Path | None) -> None:
        assert (lpips, inception) == (Path("alexnet.pth"), None)
        (folder / "networks").mkdir()
        (folder / "networks" / "lpips.pt").write_bytes(b"weights")

    monkeypatch.setattr(pipeline.parser, "save_networks", save)
    monkeypatch.setattr(pipeline.parser, "FaceTable", lambda *_: ToyFaces(3))
    monkeypatch.setattr(pipeline.parser, "require_sides", lambda _, images, labels: held.append(len(images)))
    set_parameter("metrics.lpips", "alexnet.pth")
    set_parameter("metrics.lpips_sha256", "0" * 64)
    pipeline.parser.main(Stage("parser"))
    assert asked == [("net.pt", None), ("alexnet.pth", "0" * 64)]
    assert held == [3], "the parser is held against the masks of training faces"
    files = Manifest.read(project / "models/parser").files
    assert files.keys() == {"config.json", "networks/lpips.pt", "parser.pt"}


def test_the_storage_root_is_absolute_or_an_address(project: Path) -> None:
    assert Stage("train").storage_root == str(project.resolve() / "storage")
    set_parameter("storage.root", "s3://bucket/path")
    assert Stage("train").storage_root == "s3://bucket/path"


def test_a_missing_file_is_named(project: Path) -> None:
    assert Stage("register").read_json("models/train.json") == {"made": "models/train.json"}
    with pytest.raises(ValueError, match=r"reports/none.json does not exist. Run `dvc repro`"):
        Stage("register").read_json("reports/none.json")


def raising(error: Exception) -> Callable[[Stage], None]:
    def program(_: Stage) -> None:
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("the value is 3, expected 4"), "error in stage train: the value is 3, expected 4\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.tar"), "no space left for x.tar"),
    ],
)
def test_what_the_user_can_mend_is_one_message(
    project: Path, capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        stage.run("train", raising(error))
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


PROGRAM = """
import sys
from scadm.stage import Stage, run
def main(stage):
    stage.say("copying to s3://AKID:S3cret@bucket")
    raise {}("nobody is at http://me:S3cret@host:5000")
run("train", main)
"""


@pytest.mark.parametrize(("error", "traceback"), [("ValueError", False), ("TypeError", True)])
def test_no_line_holds_a_password_of_an_address(project: Path, error: str, traceback: bool) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(error)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "[train] copying to s3://***@bucket\n" in done.stdout
    assert "nobody is at http://***@host:5000\n" in done.stderr
    assert ("Traceback" in done.stderr) == traceback
    assert "S3cret" not in done.stdout + done.stderr


ASKING = """
from scadm.files.store import Store
from scadm.stage import run
run("train", lambda stage: Store(f"{stage.storage_root}/runs/a").read("metrics.jsonl"))
"""


def test_a_store_that_is_away_is_one_message(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_parameter("storage.root", "s3://bucket/path")
    keys = {f"AWS_{name}": "test" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION")}
    away = os.environ | keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run([sys.executable, "-c", ASKING], capture_output=True, text=True, env=away)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error in stage train: ")]
    assert "storage.root is s3://bucket/path, expected a store that answers this machine: " in line
    assert "NETWORK_CONNECTION" in line and "a training from its last checkpoint" in line


def test_an_interrupted_stage_says_so_and_leaves_what_it_made(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def program(current: Stage) -> None:
        (current.work_folder() / "part").write_text("made")
        raise KeyboardInterrupt

    def empty(current: Stage) -> None:
        current.work_folder()
        raise KeyboardInterrupt

    for interrupted in (program, empty):
        with pytest.raises(SystemExit) as ended:
            stage.run("masks" if interrupted is program else "train", interrupted)
        assert ended.value.code == 130
    assert "interrupted. What is finished is kept: the same command goes on" in capsys.readouterr().out
    kept = {path.name.split("-")[0] for path in (project / ".work").iterdir() if path.is_dir()}
    assert kept == {"masks"}, "an empty work folder is not left behind"
    Stage("masks").work_folder()
    assert "[masks] 1 file(s) of an earlier, interrupted run are there" in capsys.readouterr().out


def test_other_errors_are_not_hidden(project: Path) -> None:
    with pytest.raises(PermissionError):
        stage.run("train", raising(PermissionError(errno.EACCES, "Permission denied", "x.tar")))


def test_an_invalid_parameter_ends_a_stage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_parameter("training.steps", "many")
    with pytest.raises(SystemExit):
        stage.run("train", lambda _: None)
    assert "training.steps = 'many'" in capsys.readouterr().err


# --- dvc.yaml -------------------------------------------------------------------------------------------

# What a stage's program imports and what does not determine its result, for a reason that is said here.
EVERYWHERE = {
    "scadm/__init__.py",  # turns telemetry off
    "scadm/config.py",  # types of parameters: the values are watched by `params`
    "scadm/files/manifest.py",  # describes a result; a change of its form shows in every manifest's digest
    "scadm/stage.py",  # where a result is put
    "scadm/jobs.py",  # likewise, of a job
    "scadm/files/results.py",
    "scadm/files/sharing.py",  # moves bytes, whose sha256 is checked
    "scadm/progress.py",  # bars
    "scadm/stopping.py",  # when a program ends
    "scadm/data/fetch.py",  # moves bytes, whose sha256 is checked
    "scadm/data/streams.py",  # likewise
    "scadm/data/shard_cache.py",  # likewise
    "scadm/files/store.py",  # likewise
    "scadm/files/weights.py",  # weights on disk and strictly back: the values stay the same
    "scadm/files/checkpoint.py",  # likewise
    "scadm/files/tensors.py",
    "scadm/files/patience.py",  # how long a store that is away is waited for
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "scadm/tracking").glob("*.py")),  # what MLflow shows
    "scadm/lineage.py",  # its tags, and names of parameters
    "scadm/redaction.py",  # what is left out of it
    "scadm/cluster/__init__.py",
    "scadm/cluster/data.py",  # runs the stages' own functions, wherever there is room
    "scadm/cluster/session.py",
    "scadm/cluster/evidence.py",  # who may run them
    "scadm/cluster/launch.py",  # a stage as a job: the same program elsewhere
    "scadm/cluster/follow.py",
    "scadm/cluster/upload.py",
    "scadm/cluster/train.py",
    "scadm/cluster/board.py",
}
ALLOWED: dict[str, set[str]] = {
    "download": set(),
    "masks": set(),
    "inspect": set(),
    "autoencoder": {
        "scadm/faces.py",  # the label list is compared, no class is used
        # Only to take in a VQ-f4, which is then known by the fingerprint of its weights.
        "scadm/pretrained.py",
        "scadm/interop.py",
        "scadm/lightning.py",
        "scadm/diffusion/schedule.py",
        *(f"scadm/models/{name}.py" for name in ("attention", "scadm", "spade", "style_encoder", "unet")),
    },
    "latents": {"scadm/faces.py"},  # likewise: masks pass through as they are
    # It saves parsers and networks and loads them again; a folder in another format is refused when it is loaded.
    "parser": {"scadm/evaluation/parsers.py", "scadm/evaluation/networks.py"},
    "train": {
        "scadm/synthesis.py",  # the grids of faces that a run shows meanwhile
        "scadm/training/samples.py",
        "scadm/models/autoencoder.py",
        "scadm/training/curves.py",  # tables of what was logged
        "scadm/training/hooks.py",  # signatures
        "scadm/training/attend.py",  # who may write a run
        "scadm/training/lease.py",
        "scadm/training/journal.py",
        "scadm/training/window.py",
        "scadm/training/saver.py",  # how its state is written: it changes none of it
        "scadm/training/estimate.py",  # what is said before the training starts
        "scadm/initial.py",  # where initial weights are fetched from; their digest is in the run key
        "scadm/registry.py",  # likewise
        "scadm/evaluation/evaluated.py",  # which the registry reads of other versions
    },
    "evaluate": set(),
    "register": {
        "scadm/registry.py",  # how a version is written down; what it serves, and what decides, is watched
        # gate.py takes one function of metrics.py, which imports the others
        "scadm/evaluation/metrics.py",
        "scadm/faces.py",
        "scadm/pixels.py",
    },
    "report": {
        # types, and one function of metrics.py, which imports the others
        *(f"scadm/evaluation/{name}.py" for name in ("bootstrap", "figures", "measure", "metrics")),
        "scadm/faces.py",
        "scadm/pixels.py",
    },
}


def module_file(name: str) -> str | None:
    """Path of a module of this project, below its root."""
    path = ROOT / Path(*name.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate.relative_to(ROOT).as_posix()
    return None


def imported(file: str) -> set[str]:
    """Files of scadm/ that a file imports, at its top or within a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import, which this walk does not follow"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {found for name in names if name.split(".")[0] == "scadm" and (found := module_file(name))}


def closure(file: str) -> set[str]:
    """All files of scadm/ that run when `file` does."""
    seen: set[str] = set()
    waiting = [file]
    while waiting:
        new = imported(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def code_deps(name: str) -> list[str]:
    return [dep for dep in STAGES[name]["deps"] if dep.split("/")[0] in ("scadm", "pipeline")]


@pytest.mark.parametrize("name", STAGES)
def test_every_code_dependency_exists(name: str) -> None:
    missing = [dep for dep in code_deps(name) if not (ROOT / dep).exists()]
    assert not missing
    assert f"pipeline/{name}.py" in code_deps(name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_watches_the_code_that_determines_its_result(name: str) -> None:
    watched = code_deps(name)
    if "${data.path}" in STAGES[name]["deps"]:
        watched.append("scadm/data/synthetic")  # what data.path is where the faces are drawn
    runs = {file for file in closure(f"pipeline/{name}.py") if (ROOT / file).read_text().strip()}
    covered = {file for file in runs if any(Path(file).is_relative_to(dep) for dep in watched)}
    packages = {file for file in runs if file.endswith("__init__.py")}
    missing = sorted(runs - covered - packages - EVERYWHERE - ALLOWED[name])
    assert not missing, f"stage {name} of dvc.yaml lacks these deps: {missing}"
    unused = sorted(ALLOWED[name] - runs) + sorted(ALLOWED[name] & covered)
    assert not unused, f"no longer needed in ALLOWED[{name!r}]: {unused}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_watches_no_code_that_it_does_not_run(name: str) -> None:
    runs = closure(f"pipeline/{name}.py") | {f"pipeline/{name}.py"}
    if name == "register":  # by its path: the registered model runs it
        runs |= closure("scadm/serving.py") | {"scadm/serving.py"}
    idle = [dep for dep in code_deps(name) if not any(Path(file).is_relative_to(dep) for file in runs)]
    assert not idle


def test_nothing_that_only_looks_at_a_model_trains_it_again() -> None:
    for dep in code_deps("train"):
        for other in (
            *("scadm/evaluation", "scadm/tracking", "scadm/registry.py"),
            *("scadm/app", "scadm/cluster", "scadm/serving.py"),
        ):
            assert not Path(other).is_relative_to(dep), f"an edit of {other} would train again"
            assert not Path(dep).is_relative_to(other), f"an edit of {dep} would train again"
