"""What every stage's program shares: its parameters, its run key, where it works, and how its out appears.

`dvc.yaml` is the single source of what a stage depends on; the run key is computed from the same lists that DVC
watches. A stage works in `<home>/.work/<stage>-<run key>/`, which survives a kill, and its out appears by one
rename when everything in it has been verified.

In a Ray job, whose working directory is an upload, home and data are folders that all nodes see (SCADM_HOME), or else,
with a remote storage root, folders of the node: inputs are then fetched from their copies at the storage root, and the
outs are put there.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from scadm import jobs
from scadm.config import Params, load_params
from scadm.data.fetch import locate
from scadm.files import results, sharing
from scadm.files.manifest import DISK_FULL, FILE_NAME, Manifest, digest, sha256, write_atomically
from scadm.files.store import Store, answering
from scadm.progress import Transfer
from scadm.redaction import redacted, redacted_traceback
from scadm.stopping import Stopped

_CODE = ("scadm", "pipeline")
_NAMED = re.compile(r"\$\{([a-z_.]+)\}")
_EXPERIMENTS = Path(".dvc") / "tmp" / "exps"


def find_home(workspace: Path) -> Path:
    """The one absolute folder under which runs, tracking and unfinished work are kept.

    It is the project's folder, also for an experiment that DVC runs in a temporary copy of it. For an
    upload the environment variable SCADM_HOME names it.
    """
    if named := os.environ.get(jobs.HOME):
        home = Path(named)
        if not home.is_absolute() or not home.is_dir():
            raise ValueError(
                f"SCADM_HOME is {named!r}, expected the absolute path of an existing folder. On a cluster each node "
                "must see it, also of one that is reached through a tunnel; where nodes share no folder, set "
                "storage.root to an address such as s3://bucket/path."
            )
        return home
    workspace = workspace.resolve()
    for parent in workspace.parents:
        if workspace.is_relative_to(parent / _EXPERIMENTS):
            return parent
    return workspace


def find_data(workspace: Path) -> Path:
    """The folder that holds the stages' outs: the workspace, or what SCADM_DATA or SCADM_HOME names for an upload."""
    if not jobs.is_upload(workspace):
        return workspace
    if not os.environ.get(jobs.HOME):
        raise ValueError(
            f"{workspace} is not the project's folder (it has no .dvc), so the data cannot be found. Run this from the "
            "project's folder; for a Ray job, start the cluster with SCADM_HOME set to the project's absolute path, "
            "which all its nodes must see: `SCADM_HOME=$PWD ray start --head`. For a cluster without a common folder, "
            "set storage.root to an address such as s3://bucket/path and run `scadm share` before submitting."
        )
    if named := os.environ.get(jobs.DATA):
        if not Path(named).is_absolute() or not Path(named).is_dir():
            raise ValueError(f"{jobs.DATA} is {named!r}, expected the absolute path of an existing folder.")
        return Path(named)
    return find_home(workspace)


def find_shared(workspace: Path, root: str) -> sharing.Shared | None:
    """Which copies at the storage root the inputs are, where the workspace is an upload and no folder is common.

    Raises ValueError where the upload does not say so, or says it of other data than its dvc.lock.
    """
    if not jobs.is_upload(workspace) or os.environ.get(jobs.HOME) or "://" not in root:
        return None
    shared = sharing.Shared.read(workspace)
    if shared is None:
        raise ValueError(
            f"this upload has no {sharing.SHARED}, so the stage does not know its inputs. Run `scadm share` in the "
            "project's folder before `ray job submit` (`scadm submit` does it itself), or, on a cluster whose nodes "
            "see a common folder, start it with SCADM_HOME set to the project's absolute path."
        )
    if shared.root != root:
        raise ValueError(
            f"{sharing.SHARED} is of the storage root {shared.root}, but storage.root is {root}: run `scadm share`."
        )
    now = recorded_outs(workspace)
    if other := [name for name, md5 in shared.recorded.items() if now.get(name, md5) != md5]:
        raise ValueError(
            f"{', '.join(other)} changed since `scadm share`: dvc.lock says md5 {now[other[0]]}, {sharing.SHARED} "
            f"{shared.recorded[other[0]]}. Run `scadm share` again, then submit."
        )
    return shared


def recorded_outs(workspace: Path) -> dict[str, str]:
    """DVC's md5 of each out, from dvc.lock; of a folder, one that ends in `.dir`."""
    path = workspace / "dvc.lock"
    stages = (yaml.safe_load(path.read_text()) or {}).get("stages", {}) if path.is_file() else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}


def find_storage(root: str, home: Path) -> str:
    """Absolute path or URI of a storage root."""
    return root if "://" in root else str((home / root).resolve())


_HELD: dict[Path, FileLock] = {}
"""The work folders of this process. The lock ends with it: the system drops it, and no child inherits it."""


def work_lock(folder: Path) -> FileLock:
    """What a process holds while it works in a folder of `.work`.

    Whoever holds it may remove its file when the folder is gone: who has waited for it meanwhile makes it anew.
    """
    return FileLock(folder.with_name(f".{folder.name}.lock"), thread_local=False)


def content(path: Path) -> str:
    """Digest of what a dependency holds: an out by its manifest, code and other data by its bytes."""
    if (path / FILE_NAME).is_file():
        return Manifest.read(path, verify=False).digest
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return digest({file.relative_to(path).as_posix(): sha256(file) for file in files})
    if path.is_file():
        return sha256(path)
    raise ValueError(f"{path} does not exist. Run `dvc repro`, which makes what a stage needs.")


def _select(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def declared(workspace: Path, name: str) -> dict[str, Any]:
    """What dvc.yaml says of a stage. Raises ValueError if there is none of that name."""
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text())["stages"]
    if name not in stages:
        raise ValueError(f"there is no stage {name!r}, expected one of {', '.join(stages)}")
    return stages[name]


class Stage:
    """One stage of dvc.yaml, in the current folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.workspace = Path.cwd()
        self.params: Params = load_params(self.workspace / "params.yaml")
        self._declared = declared(self.workspace, name)
        root = self.params.storage.root
        self.shared = find_shared(self.workspace, root)
        """Not None on a node that shares no folder with the others."""
        self.home = find_home(self.workspace) if self.shared is None else sharing.node_home(root)

    @cached_property
    def data(self) -> Path:
        """Where inputs and outs lie."""
        if self.shared is None:
            return find_data(self.workspace)
        # One for each process: of two with one run key on a node, the first to end deletes but its own.
        own = f"{self.name}-{self.run_key}-{jobs.submission() or 'alone'}-{os.getpid()}"
        return sharing.own_folder(self.home / "jobs", own)

    @property
    def _deps(self) -> list[str]:
        """As DVC reads them: with the value of each parameter that they name, `${section.key}`."""
        tree = self.params.model_dump(mode="json")
        return [_NAMED.sub(lambda found: str(_select(tree, found[1])), dep) for dep in self._declared["deps"]]

    @property
    def code(self) -> list[str]:
        """Dependencies that are code."""
        return [name for name in self._deps if name.split("/")[0] in _CODE]

    @cached_property  # archives of gigabytes are read for it
    def inputs(self) -> dict[str, str]:
        """Digest of each dependency that is data, as it is when first asked for."""
        names = [name for name in self._deps if name.split("/")[0] not in _CODE]
        if self.shared is None:
            return {name: content(self.data / name) for name in names}
        if missing := [name for name in names if name not in self.shared.outs]:
            raise ValueError(
                f"{sharing.SHARED} says nothing of {', '.join(missing)}, which stage {self.name} reads. Run `scadm "
                f"share {self.name}` in the project's folder, then submit again."
            )
        return {name: self.shared.outs[name] for name in names}

    @property
    def outs(self) -> list[str]:
        """As DVC lists them, with those that are metrics."""
        every = [*self._declared["outs"], *self._declared.get("metrics", [])]
        return [out if isinstance(out, str) else next(iter(out)) for out in every]

    @property
    def _inputs(self) -> sharing.Inputs:
        return sharing.Inputs(self.storage_root, str(self.data), self.inputs)

    @cached_property
    def run_key(self) -> str:
        """Sixteen hex digits for the parameters, inputs and code that determine this stage's result."""
        tree = self.params.model_dump(mode="json")
        return digest(
            {
                "stage": self.name,
                "params": {key: _select(tree, key) for key in self._declared["params"]},
                "inputs": self.inputs,
                "code": {dep: content(self.workspace / dep) for dep in self.code},
            }
        )[:16]

    @property
    def downloads(self) -> Path:
        """Where fetched files are kept, for all runs and experiments of the project."""
        return self.home / "downloads"

    @property
    def storage_root(self) -> str:
        """Absolute path or URI of the storage root."""
        return find_storage(self.params.storage.root, self.home)

    def located(self, named: str, sha256: str | None) -> Path:
        """A file that a parameter names by a path or an address; from an address it is fetched, once.

        `sha256` is the one that it must have; where none is given, a newly recorded one is said. Raises ValueError as
        `locate` does.
        """
        with Transfer() as transfer:
            found = locate(named, sha256, self.data, self.downloads, transfer)
        if found.remark is not None:
            self.say(found.remark)
        return found.path

    def path(self, name: str) -> Path:
        """Absolute path of an out or a dependency, or of a folder above some of them."""
        if self.shared is not None:
            self._inputs.fetch(name)
        return self.data / name

    def place(self, name: str) -> str:
        """Where every worker finds a dependency: its path, or the URI of its copy (`sharing.at_hand`)."""
        if self.shared is None:
            return str(self.data / name)
        return sharing.copy_place(self.storage_root, self.inputs[name])

    def manifest(self, name: str) -> Manifest:
        """The manifest of a dependency that is read by its `place`; files of a copy are compared when they are read."""
        if self.shared is None:
            return Manifest.read(self.data / name)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / FILE_NAME).write_bytes(Store(self.place(name)).read(FILE_NAME))
            return Manifest.read(Path(folder), verify=False)

    def spread(self, work: Path, needs: Iterable[str]) -> sharing.Spread | None:
        """How tasks find the inputs `needs`, and leave their parts, where nodes share no folder; None where they do."""
        if self.shared is None:
            return None
        parts = f"{self.storage_root}/work/{self.name}-{self.run_key}"
        inputs = sharing.Inputs(self.storage_root, str(self.data), {name: self.inputs[name] for name in needs})
        return sharing.Spread(inputs, str(work), parts)

    def hand_over(self) -> None:
        """At the end of a Ray job: have the outs where the launcher finds them, and write a result, last."""
        made = {out: content(self.data / out) for out in self.outs}
        if self.shared is not None:
            for out, its in made.items():
                place = Store(sharing.copy_place(self.storage_root, its))
                if not sharing.is_there(place):
                    self.say(f"copying {out} to {place.root}")
                    sharing.share(self.data / out, place)
        found = results.Result(run_key=self.run_key, submission=jobs.submission() or "", outs=made)
        results.write(self.storage_root, self.name, found)
        if self.shared is not None:
            parts = Store(f"{self.storage_root}/work/{self.name}-{self.run_key}")
            with suppress(OSError):  # there may be none
                parts.delete()
            sharing.drop(self.data)

    def read_json(self, name: str) -> Any:
        """A dependency that is a JSON file."""
        path = self.path(name)
        if not path.is_file():
            raise ValueError(f"{path} does not exist. Run `dvc repro`, which makes what a stage needs.")
        return json.loads(path.read_text())

    def write(self, out: str, text: str) -> None:
        """Write an out that is one file, whole or not at all."""
        write_atomically(self.path(out), text)

    def work_folder(self) -> Path:
        """Where the out is made; what an earlier, killed run left for the same run key is still in it.

        It is this process's until `publish` or the process's end, however that comes: another process that would make
        the same waits, and `scadm gc` lets it be.
        """
        folder = self.home / ".work" / f"{self.name}-{self.run_key}"
        if folder not in _HELD:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = work_lock(folder)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.say(f"another process is at work in {folder}; waiting for its end")
                lock.acquire()
            _HELD[folder] = lock
        folder.mkdir(exist_ok=True)
        if kept := sum(not path.name.startswith(".") for path in folder.iterdir()):
            self.say(f"{kept} file(s) of an earlier, interrupted run are there; what is whole is kept")
        return folder

    def publish(self, work: Path, out: str, manifest: Manifest | None) -> None:
        """Write the manifest, where the out has one, and move the finished folder to its place."""
        if manifest is not None:
            manifest.write(work)
        target = self.path(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
        if (lock := _HELD.pop(work, None)) is not None:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def say(self, text: str) -> None:
        """Print a line; an address in it may hold a password, which is left out."""
        print(f"[{self.name}] {redacted(text)}", flush=True)


def run(name: str, program: Callable[[Stage], None]) -> None:
    """Run a stage's program, here or, where cluster.address names a cluster's jobs, there.

    What the user can mend ends in one message on stderr and exit status 1. No line holds a password of an address.
    """
    sys.excepthook = redacted_traceback
    try:
        stage = Stage(name)
        address = jobs.launch_address(stage.params.cluster)
        with answering(stage.params.storage.root):
            if address is not None and name in jobs.LAUNCHED:
                from scadm.cluster.launch import launch  # which needs Ray, as no other stage does

                launch(stage, address)
            else:
                program(stage)
                if jobs.in_job() and jobs.is_upload(stage.workspace):
                    stage.hand_over()
    except KeyboardInterrupt as error:
        _drop_empty()
        print(f"\n[{name}] interrupted. What is finished is kept: the same command goes on from there.", flush=True)
        sys.exit(error.status if isinstance(error, Stopped) else 130)
    except ValueError as error:
        _drop_empty()
        _fail(name, str(error))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _fail(
            name,
            f"no space left for {error.filename or 'its files'} ({error.strerror}). Nothing half-written was put in "
            "place. Free some space, then run the same command again. Finished parts, under .work/, are kept.",
        )


def _drop_empty() -> None:
    """Leave no work folder behind in which nothing was made."""
    for work, lock in list(_HELD.items()):
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            del _HELD[work]


def _fail(name: str, message: str) -> None:
    print(f"error in stage {name}: {redacted(message)}", file=sys.stderr, flush=True)
    sys.exit(1)
