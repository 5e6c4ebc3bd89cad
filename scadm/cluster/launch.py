"""A stage as a job of a Ray cluster: submitted, followed to its end, and believed only when its result is there."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from scadm import jobs, lineage, tracking
from scadm.cluster import upload
from scadm.cluster.follow import UNREACHABLE, client_at, follow, head_answering, next_id, submissions
from scadm.files import results, sharing
from scadm.files.results import Result
from scadm.files.sharing import Shared
from scadm.files.store import Store
from scadm.progress import bar
from scadm.redaction import one_line
from scadm.stage import Stage, content, declared, recorded_outs

_SECONDS_TO_BEGIN = 90  # a head that has just started has no agent for jobs yet, and says so
_TIME_TO_CHECKPOINT = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""What Ray gives a job between SIGTERM and the end; its own default, 3, is too short for a checkpoint."""
_SECONDS_TO_STOP = 70
_OUTS = ("data/", "models/", "reports/")


def shares_folder(stage: Stage) -> bool:
    """Whether the cluster's nodes see this project's folder, so that nothing has to be copied for them."""
    return bool(os.environ.get(jobs.HOME)) or "://" not in stage.params.storage.root


def require_reachable_settings(stage: Stage, address: str) -> None:
    """Raise ValueError for places that only this machine has, before anything is copied or uploaded."""
    if os.environ.get(jobs.HOME):
        return
    root, uri = stage.params.storage.root, stage.params.tracking.uri
    away = not jobs.is_loopback(address)
    if away and "://" not in root:
        raise ValueError(
            f"storage.root is {root}, a folder of this machine, but the cluster {address} is elsewhere: its "
            "checkpoints would be lost. Expected an address that all its nodes reach (s3://bucket/path), or SCADM_HOME "
            "set here and on all nodes to a folder that all of them see."
        )
    if (away or "://" in root) and tracking.store_file(stage.params.tracking, stage.home) is not None:
        raise ValueError(
            f"tracking.uri is {uri}, a file of this machine, which the nodes of {address} do not have. Expected a "
            "server that they reach, such as http://HOST:5000 (`mlflow server`), or SCADM_HOME as above."
        )
    if away and uri.startswith(("http://", "https://")) and jobs.is_loopback(uri):
        raise ValueError(
            f"tracking.uri is {uri}, this machine's own address, but the cluster {address} is elsewhere. Expected one "
            "that its nodes reach."
        )


def share(stage: Stage, names: Iterable[str]) -> Shared:
    """Put the outs `names` to the storage root, unless they are there, and say so in shared.json."""
    root, data = stage.storage_root, stage.data
    if "://" not in root:
        raise ValueError(
            f"storage.root is {root}, a folder: outs are shared through an address that all nodes reach, such as "
            "s3://bucket/path. Nodes that see this folder need no copies."
        )
    outs = {name: content(data / name) for name in names}
    places = {name: Store(sharing.copy_place(root, its)) for name, its in outs.items()}
    missing = [name for name, place in places.items() if not sharing.is_there(place)]
    if missing:
        total = sum(file.stat().st_size for name in missing for file in sharing.files_of(data / name).values())
        with bar(total, "share", "bytes") as progress:
            for name in missing:
                progress.set_postfix_str(name, refresh=False)
                sharing.share(data / name, places[name], progress.update)
    there = f"{len(outs) - len(missing)} were there" if len(outs) > len(missing) else ""
    stage.say(f"{len(missing)} of {len(outs)} outs copied to {root}/outs" + (f", {there}" if there else ""))
    md5 = recorded_outs(stage.workspace)
    shared = Shared(root, outs, {name: md5[name] for name in outs if name in md5})
    before = Shared.read(stage.workspace)
    shared = before.joined(shared) if before is not None else shared
    shared.write(stage.workspace)
    lineage.keep_out_of_git(stage.workspace, sharing.SHARED)
    return shared


def _environment(stage: Stage) -> dict[str, str]:
    """All that a job gets of this process's environment. Credentials are the nodes' own."""
    found = {jobs.HOME: "", jobs.DATA: "", **_TIME_TO_CHECKPOINT}
    if shares_folder(stage):
        found |= {jobs.HOME: str(stage.home.resolve()), jobs.DATA: str(stage.data.resolve())}
    tags = lineage.tags(stage.workspace, "")
    for variable, tag in ((jobs.COMMIT, "scadm.git_commit"), (jobs.DIRTY, "scadm.git_dirty")):
        if tag in tags:
            found[variable] = tags[tag]
    return found | {name: os.environ[name] for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV") if name in os.environ}


def launch(stage: Stage, address: str) -> None:
    """Run a stage as a job of the cluster whose jobs are taken at `address`, and have its outs here.

    A job of the same stage and run key that is pending or running is followed instead; of one that has left its result,
    the outs are taken. Raises ValueError where the job or its result is not what it must be.
    """
    if stage.name not in jobs.LAUNCHED:
        raise ValueError(f"stage {stage.name} uses no Ray: expected one of {', '.join(jobs.LAUNCHED)}")
    require_reachable_settings(stage, address)
    client = client_at(address)
    if not shares_folder(stage):
        share(stage, stage.inputs)
    base = f"scadm-{stage.name}-{stage.run_key}"
    with head_answering(address, "The same command then submits the stage, or follows its job."):
        earlier = submissions(client, base)
    running = [job.submission_id or "" for job in earlier if not job.status.is_terminal()]
    if running:
        submission = running[-1]
        stage.say(f"the job {submission} is at it already; following it")
    elif (result := _finished(stage)) is not None:
        stage.say(f"the job {result.submission} has done it")
        _take(stage, result)
        return
    else:
        submission = _submit(stage, client, next_id(earlier, base), address)
    stage.say(f"the dashboard of the cluster is {address}; Ctrl-C here does not end the job by itself")
    status = _followed(stage, client, submission, address)
    if status != JobStatus.SUCCEEDED:
        with head_answering(address, f"The job {submission} ended as {status.value}; the same command runs it again."):
            message = one_line(client.get_job_info(submission).message or "", 500)
        raise ValueError(
            f"the Ray job {submission} ended as {status.value}: {message}. Its log is above, and by `ray job logs "
            f"--address {address} {submission}`. Run the same command again when the reason is mended: it goes on from "
            "what is finished."
        )
    _take(stage, _require_result(stage, submission))


def _finished(stage: Stage) -> Result | None:
    """The result of an earlier job, if its outs can still be had. Weights to start from may have changed since."""
    if stage.name == "train" and stage.params.training.init_from is not None:
        return None
    result = results.read(stage.storage_root, stage.name, stage.run_key)
    if result is None or result.run_key != stage.run_key or set(result.outs) != set(stage.outs):
        return None
    if shares_folder(stage):
        there = all(
            (stage.data / out).exists() and content(stage.data / out) == its for out, its in result.outs.items()
        )
    else:
        there = all(
            sharing.is_there(Store(sharing.copy_place(stage.storage_root, its))) for its in result.outs.values()
        )
    return result if there else None


def _submit(stage: Stage, client: JobSubmissionClient, submission: str, address: str) -> str:
    files = upload.packed(stage.workspace)
    said = upload.require_small(files)
    needed = [*stage.code, "pipeline", "scadm", "params.yaml", "dvc.yaml"]
    upload.require_complete(files, needed if shares_folder(stage) else [*needed, sharing.SHARED])
    stage.say(f"submitting {submission}: {said} are uploaded")
    end = time.monotonic() + _SECONDS_TO_BEGIN
    while True:
        try:
            return client.submit_job(
                entrypoint=f"python -m pipeline.{stage.name}",
                submission_id=submission,
                runtime_env={"working_dir": str(stage.workspace), "env_vars": _environment(stage)},
                metadata={"scadm.stage": stage.name, "scadm.run_key": stage.run_key},
            )
        except UNREACHABLE as error:
            said = one_line(error, 500)
            if "No available agent" in said and time.monotonic() < end:
                time.sleep(2)
                continue
            with head_answering(address, f"If it took the job {submission}, the same command follows it."):
                taken = any(job.submission_id == submission for job in client.list_jobs())
            if taken:
                return submission  # another launcher was first
            raise ValueError(f"the cluster did not take the job {submission}: {said}") from None


def _followed(stage: Stage, client: JobSubmissionClient, submission: str, address: str) -> JobStatus:
    try:
        return follow(client, submission, _show, stage.say)
    except KeyboardInterrupt:
        _show("\n")
        if _wants_to_stop():
            by_hand = f"`ray job stop --address {address} {submission}`"
            with head_answering(address, f"The job may go on: {by_hand} ends it, the same command follows it."):
                client.stop_job(submission)
                end = time.monotonic() + _SECONDS_TO_STOP
                while not client.get_job_status(submission).is_terminal() and time.monotonic() < end:
                    time.sleep(0.5)
                status = client.get_job_status(submission)
            stage.say(f"the job {submission} is {status.value.lower()}")
        else:
            stage.say(f"the job {submission} goes on; the same command follows it again")
        sys.exit(130)


def _wants_to_stop() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("Stop the job too? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, OSError, KeyboardInterrupt):
        return False


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _require_result(stage: Stage, submission: str) -> Result:
    result = results.require(stage.storage_root, stage.name, stage.run_key, submission)
    if set(result.outs) != set(stage.outs):
        raise ValueError(
            f"the job {submission} has made {sorted(result.outs)}, expected {sorted(stage.outs)}: its dvc.yaml was "
            "another."
        )
    return result


def _take(stage: Stage, result: Result) -> None:
    """Have the outs of a finished job in the workspace, each whole or not at all."""
    for out, its in result.outs.items():
        target = stage.data / out
        if target.exists() and content(target) == its:
            continue
        if shares_folder(stage):
            raise ValueError(
                f"the job {result.submission} has made {out} with the digest {its}, but {target} "
                + (f"is {content(target)}" if target.exists() else "is not there")
                + f": the nodes see another folder than this one. Set {jobs.HOME} here and on all nodes to a folder "
                "that all of them see, or storage.root to an address."
            )
        sharing.fetch(Store(sharing.copy_place(stage.storage_root, its)), target)
        if (found := content(target)) != its:
            raise ValueError(f"{target} was fetched with the digest {found}, the job {result.submission} says {its}.")
    stage.say(f"{', '.join(result.outs)}: made by the job {result.submission}, and here")


def names_to_share(workspace: Path, given: Iterable[str]) -> list[str]:
    """Outs to share: those given, and of a stage what it reads; without any, all that jobs read and that are there."""
    wanted: dict[str, None] = {}
    given = list(given)
    for name in given or jobs.LAUNCHED:
        if "/" in name:
            wanted[name] = None
        else:
            deps = [dep for dep in declared(workspace, name)["deps"] if dep.startswith(_OUTS)]
            wanted |= dict.fromkeys(dep for dep in deps if given or (workspace / dep).exists())
    return list(wanted)
