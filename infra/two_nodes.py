"""Train on a real cluster of two Ray nodes, made on this one machine, and see that everything arrived.

    python -m infra.two_nodes            # the quickstart's training; its data is made first
    python -m infra.two_nodes --short    # the profile `smoke`, a few steps: under 4 minutes
    python -m infra.two_nodes --project ~/sca-dm    # with that project's parameters, and its data as they are

Two nodes of one CPU each, so that two training workers must spread; an MLflow server; an S3 store (moto's server);
token authentication. The project, a copy of the working tree, is submitted as a user would:
`ray job submit --working-dir . -- python -m pipeline.train`. It exits 0 only if the job succeeded, each node had a
worker, the final checkpoint is complete in S3 with every file as it was written, and the MLflow run is FINISHED with
every step once.

Where the kernel allows it (root, or namespaces of users), each node is in a network namespace with an address, a host
name, processes, shared memory and files of its own, and sees neither the project nor the other node's files: what it
reads comes by the upload or from S3. Elsewhere the nodes are at 127.0.0.2 and 127.0.0.3 and share the machine's files;
`--loopback` asks for that. Nothing outside this machine is contacted, and nothing stays: processes, namespaces and
folders end with the script, whether it succeeds, fails, or is stopped by Ctrl-C or SIGTERM. Only after a failure are
the logs kept, in a folder that the last line names.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

from infra import environment
from infra.machines import Loopback, Namespaces, Network, entering
from infra.processes import adopt_orphans, end_descendants
from infra.project import ROOT

_LONGEST = 24  # characters of the folder in which Ray makes its sockets' folders: a socket's path may have 107


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m infra.two_nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the profile `smoke`, and few steps")
    parser.add_argument("--project", type=Path, help="a project whose data is there: it is copied, and not made anew")
    parser.add_argument("--loopback", action="store_true", help="no namespaces, even where they are allowed")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if shutil.which("moto_server", path=Path(sys.executable).parent) is None:
        parser.error("moto's server is not installed beside this Python: `make env-dev` makes an environment with it")
    if options.project is not None and not (options.project / "data" / "shards").is_dir():
        parser.error(f"--project {options.project} holds no data/shards: run `dvc repro latents` there first")
    return options


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= _LONGEST else Path("/tmp")


def _interrupt(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _outside(options: argparse.Namespace) -> int:
    """Run `_inside` in a process of its own, and end whatever is left of it."""
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    work = Path(tempfile.mkdtemp(prefix="2n-", dir=_temporary()))
    status, stopped = 1, False
    try:
        prefix = None if options.loopback else entering()
        inner = [sys.executable, "-m", "infra.two_nodes", "--inside", str(work)]
        inner += ["--short"] if options.short else []
        inner += ["--loopback"] if prefix is None else []
        inner += ["--project", str(options.project.resolve())] if options.project is not None else []
        home = work / "home"
        home.mkdir()
        env = environment.clean(home, os.environ)
        # The pipe is never written to: it ends when this process does, however that comes.
        with subprocess.Popen(
            [*(prefix or []), *inner], cwd=ROOT, env=env, stdin=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                status = abs(process.wait())  # below 0 if the system has killed it
            finally:
                process.kill()
    except SystemExit as interruption:
        status, stopped = int(str(interruption.code)), True
        print(f"\nstopped by {signal.Signals(status - 128).name}", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        if left := end_descendants():
            print(f"warning: processes {left} could not be ended", file=sys.stderr, flush=True)
            status = status or 1
        if status != 0 and not stopped and (kept := _keep_logs(work)) is not None:
            print(f"the logs are in {kept}", file=sys.stderr, flush=True)
        shutil.rmtree(work)
    return status


def _keep_logs(work: Path) -> Path | None:
    """Copy what a failure can be read from out of the folder that is about to go."""
    places = {"script": work / "logs"}
    for node in sorted((work / "machines").glob("*")):
        places[node.name] = next(node.glob("ray/session_2*/logs"), node / "none")
    if not any(path.is_file() for place in places.values() for path in place.rglob("*")):
        return None
    kept = Path(tempfile.mkdtemp(prefix="two-nodes-logs-"))
    for name, place in places.items():
        if place.is_dir():
            shutil.copytree(place, kept / name, symlinks=True, ignore_dangling_symlinks=True)
    return kept


def _end_with_parent() -> None:
    """End this process and its descendants when the one that started it has ended."""
    os.read(0, 1)
    end_descendants()
    os._exit(1)


def _inside(options: argparse.Namespace) -> int:
    adopt_orphans()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from infra.trial import Failed, Trial  # imports for seconds, in which the parent may end

    work: Path = options.inside
    trial = Trial(work, short=options.short, project=options.project)
    network: Network = Loopback(work) if options.loopback else Namespaces(work, trial.private_folders())
    try:
        trial.run(network)
    except (Failed, ValueError) as failure:
        print(f"\nFAILED after {trial.elapsed():.0f} s: {failure}", file=sys.stderr, flush=True)
        return 1
    return 0


def main() -> int:
    options = _options(sys.argv[1:])
    return _outside(options) if options.inside is None else _inside(options)


if __name__ == "__main__":
    sys.exit(main())
