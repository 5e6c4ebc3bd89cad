"""Copies of this project to run real stages in, and what is needed to watch and kill them."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
MARK = "SCADM_TEST_MARK"
_SOMEBODY = {"NAME": "test", "EMAIL": "test@localhost"}


def _override(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[name] = value


class Project:
    """A folder that holds the project and in which its commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.variables: dict[str, str] = {}
        """What its commands find in their environment besides."""

    @classmethod
    def clone(cls, folder: Path, profile: str = "smoke", changes: Mapping[str, Any] | None = None) -> "Project":
        """The working tree as it is now, under a profile with changes of single parameters."""
        project = cls(folder)
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        project.run("scadm", "profile", profile)
        if changes:
            project.set(changes)
        project.commit()
        return project

    def copy(self, folder: Path) -> "Project":
        """With all outs, but without the runs and models of `storage/`."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("storage"))
        return Project(folder)

    def commit(self) -> None:
        if not (self.folder / ".git").exists():
            self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")

    def set(self, changes: Mapping[str, Any]) -> None:
        path = self.folder / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        _override(tree, changes)
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # This copy's code, not that of an editable install; and the guard that allows loopback only.
            "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT / 'tests' / 'guard'}",
            MARK: self.mark,
            # Experiments of DVC are commits, and a bare machine knows no name for them.
            **{f"GIT_{role}_{what}": who for role in ("AUTHOR", "COMMITTER") for what, who in _SOMEBODY.items()},
            **self.variables,
        }

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run to its end; output and errors together are in `stdout`."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done

    def start(self, *command: str, log: Path) -> "subprocess.Popen[str]":
        """Start in a process group of its own."""
        with log.open("w") as file:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.env, text=True, stdout=file, stderr=file, start_new_session=True
            )

    def processes(self, named: str = "") -> dict[int, str]:
        """Every process that descends from this project's commands, whatever became of its parents.

        Those whose command holds `named`.
        """
        return {pid: command for pid, command in marked(self.mark).items() if named in command}


def marked(mark: str) -> dict[int, str]:
    """The command of each living process in whose environment `mark` is."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environ = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # gone, or another user's
            if mark.encode() in environ and command:
                found[int(folder.name)] = command
    return found


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Raise AssertionError if a condition does not come true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def kill_group(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
