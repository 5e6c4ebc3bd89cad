"""What every stage's program shares: its parameters, its run key, where it works, and how its out appears.

`dvc.yaml` is the single source of what a stage depends on; the run key is computed from the same lists that DVC
watches. A stage works in `<home>/.work/<stage>-<run key>/`, which survives a kill, and its out appears by one
rename when everything in it has been verified.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from scadm.config import Params, load_params
from scadm.data.fetch import locate
from scadm.manifest import DISK_FULL, FILE_NAME, Manifest, digest, sha256, write_atomically
from scadm.progress import Transfer
from scadm.stopping import Stopped

_CODE = ("scadm", "pipeline")
_NAMED = re.compile(r"\$\{([a-z_.]+)\}")
_EXPERIMENTS = Path(".dvc") / "tmp" / "exps"


def find_home(workspace: Path) -> Path:
    """The one absolute folder under which runs, tracking and unfinished work are kept.

    It is the project's folder, also for an experiment that DVC runs in a temporary copy of it. In a job of a Ray
    cluster, whose working directory is an upload, the environment variable SCADM_HOME names it.
    """
    if named := os.environ.get("SCADM_HOME"):
        home = Path(named)
        if not home.is_absolute() or not home.is_dir():
            raise ValueError(f"SCADM_HOME is {named!r}, expected the absolute path of an existing folder.")
        return home
    workspace = workspace.resolve()
    for parent in workspace.parents:
        if workspace.is_relative_to(parent / _EXPERIMENTS):
            return parent
    return workspace


def find_data(workspace: Path) -> Path:
    """The folder that holds the stages' outs: the workspace, or the home where the workspace is an upload."""
    if (workspace / ".dvc").is_dir():
        return workspace
    if "SCADM_HOME" not in os.environ:
        raise ValueError(
            f"{workspace} is not the project's folder (it has no .dvc), so the data cannot be found. Run this from the "
            "project's folder; for a Ray job, start the cluster with SCADM_HOME set to the project's absolute path: "
            "`SCADM_HOME=$PWD ray start --head`."
        )
    return find_home(workspace)


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


def _content(path: Path) -> str:
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


class Stage:
    """One stage of dvc.yaml, in the current folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.workspace = Path.cwd()
        self.home = find_home(self.workspace)
        self.data = find_data(self.workspace)
        self.params: Params = load_params(self.workspace / "params.yaml")
        self._declared = yaml.safe_load((self.workspace / "dvc.yaml").read_text())["stages"][name]

    @property
    def _deps(self) -> list[str]:
        """As DVC reads them: with the value of each parameter that they name, `${section.key}`."""
        tree = self.params.model_dump(mode="json")
        return [_NAMED.sub(lambda found: str(_select(tree, found[1])), dep) for dep in self._declared["deps"]]

    @cached_property  # archives of gigabytes are read for it
    def inputs(self) -> dict[str, str]:
        """Digest of each dependency that is data, as it is when first asked for."""
        return {name: _content(self.data / name) for name in self._deps if name.split("/")[0] not in _CODE}

    @cached_property
    def run_key(self) -> str:
        """Sixteen hex digits for the parameters, inputs and code that determine this stage's result."""
        tree = self.params.model_dump(mode="json")
        code = [dep for dep in self._deps if dep.split("/")[0] in _CODE]
        return digest(
            {
                "stage": self.name,
                "params": {key: _select(tree, key) for key in self._declared["params"]},
                "inputs": self.inputs,
                "code": {dep: _content(self.workspace / dep) for dep in code},
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
        """Absolute path of an out or a dependency."""
        return self.data / name

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
        print(f"[{self.name}] {text}", flush=True)


def run(name: str, program: Callable[[Stage], None]) -> None:
    """Run a stage's program. What the user can mend ends in one message on stderr and exit status 1."""
    try:
        program(Stage(name))
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
    print(f"error in stage {name}: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
