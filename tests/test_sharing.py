"""Outs at a storage root, and what nodes that share no folder have of them. Without Ray, at file:// addresses."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scadm import jobs, profiles, stage
from scadm.files import results, sharing
from scadm.files.manifest import Manifest, describe_files
from scadm.files.sharing import Inputs, Shared, Spread, Spreading, at_hand, copy_place, fetch, is_there, share
from scadm.files.store import Store
from scadm.stage import Stage, content

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket"


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's own disk."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for name in (jobs.HOME, jobs.DATA, "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder


def made(out: Path, files: dict[str, str]) -> Path:
    """An out of some files, with its manifest."""
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    Manifest(stage="test", files=describe_files(out, files)).write(out)
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- copies ---------------------------------------------------------------------------------------------


def test_a_folder_comes_back_as_it_was(tmp_path: Path, root: str) -> None:
    out = made(tmp_path / "data" / "shards", {"a.tar": "a" * 9, "deep/b.bin": "b"})
    place = Store(copy_place(root, content(out)))
    moved: list[int] = []
    share(out, place, moved.append)
    assert sum(moved) == sum(map(len, tree(out).values()))
    back = tmp_path / "elsewhere" / "shards"
    fetch(place, back)
    assert tree(back) == tree(out) and content(back) == content(out)
    assert [path.name for path in back.parent.iterdir()] == ["shards"], "nothing else is left there"


def test_a_file_comes_back_under_any_name(tmp_path: Path, root: str) -> None:
    out = tmp_path / "train.json"
    out.write_text('{"a": 1}')
    place = Store(copy_place(root, content(out)))
    share(out, place)
    fetch(place, tmp_path / "deep" / "other.json")
    assert (tmp_path / "deep" / "other.json").read_text() == '{"a": 1}'
    assert at_hand(place.root).name == "train.json"


def test_a_copy_counts_when_it_is_whole(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(tmp_path / "out", {"a": "first", "b": "second"})
    place = Store(copy_place(root, content(out)))
    put, seen = sharing.put, []

    def broken(source: Path, *rest: Any) -> Any:
        seen.append(source.name)
        if source.name == "b":
            raise OSError("the line is cut")
        return put(source, *rest)

    monkeypatch.setattr(sharing, "put", broken)
    with pytest.raises(OSError, match="the line is cut"):
        share(out, place)
    assert not is_there(place)
    with pytest.raises(ValueError, match=r"is not a finished copy of an out.*scadm share"):
        fetch(place, tmp_path / "back")
    assert not (tmp_path / "back").exists()

    seen.clear()
    monkeypatch.setattr(sharing, "put", lambda source, *rest: seen.append(source.name) or put(source, *rest))
    share(out, place)
    assert is_there(place) and "a" not in seen, "what had arrived is not sent again"
    (Path(place.path) / "b").write_text("cut")
    assert not is_there(place)


def test_a_damaged_copy_is_refused_and_nothing_is_put_in_place(tmp_path: Path, root: str) -> None:
    out = made(tmp_path / "out", {"a": "right"})
    place = Store(copy_place(root, content(out)))
    share(out, place)
    (Path(place.path) / "a").write_text("wrong")
    back = made(tmp_path / "back", {"old": "old"})
    wrong, right = (hashlib.sha256(text).hexdigest() for text in (b"wrong", b"right"))
    for call in (lambda: fetch(place, back), lambda: at_hand(place.root)):
        with pytest.raises(ValueError, match=f"sha256 {wrong}, expected 5 bytes and {right}|{wrong}.*{right}"):
            call()
    assert "old" in tree(back), "what was there stays"
    (Path(place.path) / "a").write_text("right")
    assert at_hand(place.root).joinpath("a").read_text() == "right", "and the next attempt starts anew"


def test_an_out_with_the_marker_s_name_in_it_is_refused(tmp_path: Path, root: str) -> None:
    out = made(tmp_path / "out", {"copy.json": "{}"})
    with pytest.raises(ValueError, match=r"holds a file copy\.json"):
        share(out, Store(copy_place(root, "d")))


def test_it_is_fetched_once_a_machine(tmp_path: Path, root: str, node: Path) -> None:
    out = made(tmp_path / "out", {"a": "text"})
    place = Store(copy_place(root, content(out)))
    share(out, place)
    first = at_hand(place.root)
    assert first.is_relative_to(node) and tree(first) == tree(out)
    shutil.rmtree(place.path)
    assert at_hand(place.root) == first
    assert at_hand(str(out)) == out, "a path is at hand already"


def test_a_node_forgets_what_nobody_has_asked_for_in_a_month(tmp_path: Path, root: str) -> None:
    places = []
    for name in ("old", "asked", "new"):
        out = made(tmp_path / name, {"a": name})
        places.append(Store(copy_place(root, content(out))).root)
        share(out, Store(places[-1]))
    old, asked = at_hand(places[0]), at_hand(places[1])
    for copy in (old, asked):
        os.utime(copy.parent, (0, 0))
    at_hand(places[1])
    assert old.exists(), "nothing is deleted while nothing is fetched"
    at_hand(places[2])
    assert not old.exists() and asked.exists()
    assert at_hand(places[0]).joinpath("a").read_text() == "old", "it is fetched again"


# --- parts ----------------------------------------------------------------------------------------------


class Maker:
    """Makes `n.txt` from the input, unless it is there; a class, as actors make it once."""

    made: list[int] = []  # noqa: RUF012

    def __init__(self, folder: Path, work: Path) -> None:
        self.text, self.work = (folder / "data/raw/a").read_text(), work

    def __call__(self, n: int) -> int:
        path = self.work / f"{n}.txt"
        if not path.exists():
            Maker.made.append(n)
            path.write_text(f"{self.text} {n}")
        return n * n


def test_tasks_find_their_inputs_and_any_node_goes_on_with_the_parts(
    tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = made(tmp_path / "raw", {"a": "face"})
    share(raw, Store(copy_place(root, content(raw))))
    folder, work = tmp_path / "node" / "job", tmp_path / "node" / "work"
    inputs = Inputs(root, str(folder), {"data/raw": content(raw)})
    spread = pickle.loads(pickle.dumps(Spread(inputs, str(work), f"{root}/work/latents-1")))
    Maker.made.clear()

    function = Spreading(lambda: Maker(folder, work), spread)
    answers = [function("0.txt", {"n": 0}), function("1.txt", {"n": 1})]
    assert [result for result, _ in answers] == [0, 1] and Maker.made == [0, 1]

    # Another node: its disk holds nothing, and one part, left by an older attempt, is another than was kept.
    shutil.rmtree(tmp_path / "node")
    (tmp_path / "node").mkdir()
    work.mkdir()
    (work / "1.txt").write_text("FACE 1")
    function = Spreading(lambda: Maker(folder, work), spread)
    again = [function(f"{n}.txt", {"n": n}) for n in (0, 1, 2)]
    assert Maker.made == [0, 1, 2], "only what was not there is made"
    assert again[:2] == answers
    assert (work / "1.txt").read_text() == "face 1"

    # The driver's node has made none of them.
    shutil.rmtree(work)
    for n, (_, entry) in enumerate(again):
        assert entry is not None
        spread.gather(f"{n}.txt", entry)
    assert tree(work) == {f"{n}.txt": f"face {n}".encode() for n in range(3)}


def test_a_part_that_is_damaged_at_the_root_is_made_again(tmp_path: Path, root: str) -> None:
    raw = made(tmp_path / "raw", {"a": "face"})
    share(raw, Store(copy_place(root, content(raw))))
    folder, work = tmp_path / "job", tmp_path / "work"
    spread = Spread(Inputs(root, str(folder), {"data/raw": content(raw)}), str(work), f"{root}/work/latents-1")
    Maker.made.clear()
    Spreading(lambda: Maker(folder, work), spread)("0.txt", {"n": 0})
    (work / "0.txt").unlink()
    kept = Path(Store(spread.parts).path) / "0.txt"
    kept.write_text("????? ?")
    _, entry = Spreading(lambda: Maker(folder, work), spread)("0.txt", {"n": 0})
    assert Maker.made == [0, 0] and kept.read_text() == "face 0"
    assert entry is not None and entry.bytes == 6
    kept.write_text("????? ?")
    (work / "0.txt").unlink()
    with pytest.raises(ValueError, match=r"0\.txt has .* expected 6 and"):
        spread.gather("0.txt", entry)


def test_a_task_that_makes_no_part_just_answers(tmp_path: Path, root: str) -> None:
    spread = Spread(Inputs(root, str(tmp_path / "job"), {}), str(tmp_path / "work"), f"{root}/work/evaluate-1")
    assert Spreading(lambda: lambda n: n + 1, spread)(None, {"n": 1}) == (2, None)
    with pytest.raises(ValueError, match=r"made no .*0\.txt"):
        Spreading(lambda: lambda n: n, spread)("0.txt", {"n": 0})


# --- a job's stage --------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose outs exist, with a remote storage root, as the current folder."""
    folder = tmp_path / "project"
    for name in ("scadm", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    params = yaml.safe_load(profiles.render("quickstart", ROOT / "conf"))
    params["storage"]["root"] = root
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("data/shards", "models/autoencoder"):
        made(folder / name, {"index.json": json.dumps({"of": name})})
    monkeypatch.chdir(folder)
    return folder


def uploaded(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What arrives of a project in a job."""
    upload = tmp_path / "upload"
    for name in ("scadm", "pipeline"):
        shutil.copytree(project / name, upload / name)
    for name in ("dvc.yaml", "params.yaml", *(["shared.json"] if (project / "shared.json").exists() else [])):
        shutil.copy(project / name, upload)
    monkeypatch.chdir(upload)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "scadm-train-1"}}))
    return upload


def shared_by(project: Path) -> Stage:
    from scadm.cluster.launch import share as launch_share

    found = Stage("train")
    launch_share(found, found.inputs)
    return found


def test_a_job_has_the_launcher_s_run_key_and_fetches_what_it_reads(
    project: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shared_by(project)
    uploaded(project, tmp_path, monkeypatch)
    there = Stage("train")
    assert there.run_key == here.run_key and there.inputs == here.inputs
    assert there.home.is_relative_to(tmp_path / "node"), "a folder of the node"
    assert tree(there.path("models/autoencoder")) == tree(project / "models/autoencoder")
    assert not (there.data / "data").exists(), "shards are read by their address"
    assert there.place("data/shards") == copy_place(root, here.inputs["data/shards"])
    assert there.manifest("data/shards") == Manifest.read(project / "data/shards")
    assert here.place("data/shards") == str(project / "data/shards")


def test_a_job_s_outs_and_its_result_are_left_at_the_root(
    project: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shared_by(project)
    uploaded(project, tmp_path, monkeypatch)
    there = Stage("train")
    for out in there.outs:
        there.write(out, f"{out} of the job")
    there.hand_over()
    found = results.require(root, "train", here.run_key, "scadm-train-1")
    assert set(found.outs) == {"models/train.json", "reports/training.csv", "reports/validation.csv"}
    for out, its in found.outs.items():
        fetch(Store(copy_place(root, its)), project / out)
        assert (project / out).read_text() == f"{out} of the job"
    assert not there.data.exists()


SECOND = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from scadm.stage import Stage
stage = Stage("train")
stage.write("models/train.json", "made by the second job")
print(stage.data, flush=True)
sys.stdin.read()
"""


def test_two_jobs_of_one_run_key_on_a_node_have_folders_of_their_own(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Path
) -> None:
    shared_by(project)
    uploaded(project, tmp_path, monkeypatch)
    job = json.dumps({"metadata": {"job_submission_id": "scadm-train-2"}})
    second = subprocess.Popen(
        [sys.executable, "-c", SECOND, str(node)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"RAY_JOB_CONFIG_JSON_ENV_VAR": job},
    )  # fmt: skip
    try:
        assert second.stdout is not None
        theirs = Path(second.stdout.readline().strip())
        first = Stage("train")
        assert first.data.parent == theirs.parent and first.data != theirs
        for out in first.outs:
            first.write(out, f"{out} of the first job")
        first.hand_over()
        assert not first.data.exists()
        assert (theirs / "models/train.json").read_text() == "made by the second job"
    finally:
        second.kill()
        second.wait()
    assert theirs.exists(), "a killed job leaves its folder"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job.replace("train-2", "train-3"))
    third = Stage("train")
    third.path("models/autoencoder")
    assert not theirs.exists(), "which the next job on this node deletes"
    assert [path.name for path in third.data.parent.iterdir() if path.is_dir()] == [third.data.name]


def test_a_node_forgets_folders_of_jobs_whose_driver_is_elsewhere_after_a_month(tmp_path: Path) -> None:
    old, new = tmp_path / "jobs/old", tmp_path / "jobs/new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    own = sharing.own_folder(tmp_path / "jobs", "own")
    own.mkdir()
    for folder in (old, own):
        os.utime(folder, (0, 0))
    sharing.forget_ended(tmp_path / "jobs")
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir() if path.is_dir()) == ["new", "own"]
    sharing.drop(own)
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["new"]


def test_a_job_without_its_inputs_says_what_to_do(
    project: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(project, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"this upload has no shared\.json.*`scadm share`.*SCADM_HOME"):
        Stage("train")
    Shared(root, {"data/shards": "d"}, {}).write(upload)
    with pytest.raises(ValueError, match=r"shared\.json says nothing of models/autoencoder.*`scadm share train`"):
        _ = Stage("train").run_key
    Shared("s3://other", {}, {}).write(upload)
    with pytest.raises(ValueError, match=f"of the storage root s3://other, but storage.root is {re.escape(root)}"):
        Stage("train")
    Shared(root, {"data/shards": "d"}, {"data/shards": "1.dir"}).write(upload)
    lock = {"stages": {"latents": {"outs": [{"path": "data/shards", "md5": "2.dir"}]}}}
    (upload / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(ValueError, match=r"data/shards changed since `scadm share`: dvc\.lock says md5 2\.dir"):
        Stage("train")


def test_a_common_folder_needs_no_copies(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = uploaded(project, tmp_path, monkeypatch)
    monkeypatch.setenv(jobs.HOME, str(project))
    assert Stage("train").shared is None and Stage("train").data == project
    other = tmp_path / "experiment"
    other.mkdir()
    monkeypatch.setenv(jobs.DATA, str(other))
    assert Stage("train").data == other and Stage("train").home == project
    monkeypatch.setenv(jobs.DATA, "relative")
    with pytest.raises(ValueError, match="SCADM_DATA is 'relative', expected the absolute path"):
        stage.find_data(upload)


def test_sharing_again_keeps_what_was_shared_and_replaces_what_has_changed(project: Path, root: str) -> None:
    Shared(root, {"data/raw": "r", "data/shards": "old"}, {"data/raw": "m"}).write(project)
    here = shared_by(project)
    found = Shared.read(project)
    assert found == Shared(root, {"data/raw": "r", **here.inputs}, {"data/raw": "m"})


def test_another_user_s_folder_is_not_trusted(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.getuid() + 1
    assert sharing.node_folder() == node / f"scadm-{os.getuid()}"
    (node / f"scadm-{other}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(ValueError, match="belongs to another user"):
        sharing.node_folder()
