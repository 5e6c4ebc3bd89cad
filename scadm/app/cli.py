"""The command line, `scadm`. Commands import what they need when they run, so that `--help` answers at once."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scadm.redaction import redacted, redacted_traceback

if TYPE_CHECKING:
    from scadm.registry import Registry
    from scadm.stage import Stage

app = typer.Typer(no_args_is_help=True, add_completion=False, help="SCA-DM Pipeline: part-by-part face synthesis.")


@app.callback()
def _main() -> None:
    """The stages themselves run by `dvc repro`; see README.md."""


@app.command(epilog="Example: scadm profile smoke && dvc repro")
def profile(
    name: Annotated[
        str,
        typer.Argument(
            help="A file of conf/, without .yaml: quickstart, smoke, mini or celebamask-hq.", metavar="NAME"
        ),
    ],
) -> None:
    """Write the profile NAME to params.yaml, and show what that changes."""
    from scadm import profiles

    changes = profiles.write(name)
    for change in changes:
        _say(f"  {change.key}: {change.before} -> {change.after}")
    _say(f"params.yaml is now profile {name} ({len(changes)} values changed). `dvc repro` runs it.")
    for key, path in profiles.missing():
        _say(
            f"  But {key} {path} is not there yet: put it there, or name it, as by `dvc exp run -S {key}=/where/it/is`."
        )


def _say(text: str) -> None:
    """Print; an address in it may hold a password, which is left out."""
    print(redacted(text), flush=True)


_COLOURS = {"ok": typer.colors.GREEN, "note": typer.colors.YELLOW, "fault": typer.colors.RED}


@app.command(epilog="Example: scadm doctor && dvc repro")
def doctor() -> None:
    """Say whether this machine and this project are ready for `dvc repro`, and the remedy for what is not.

    A note does not stop a run; with any fault the exit status is 1.
    """
    from scadm.app.doctor import examine

    faults = 0
    for finding in examine():
        mark, *rest = finding.lines()
        typer.echo(typer.style(mark, fg=_COLOURS[finding.mark]) + "\n".join(rest))  # colours on a terminal only
        faults += finding.mark == "fault"
    if faults:
        _say(f"{faults} fault(s): mend them before `dvc repro`.")
        raise typer.Exit(1)
    _say("Ready: `dvc repro` runs the pipeline.")


@app.command(epilog="Example: scadm submit train --address http://127.0.0.1:8265")
def submit(
    stage: Annotated[str, typer.Argument(help="masks, latents, train or evaluate.", metavar="STAGE")],
    address: Annotated[
        str | None, typer.Option(help="http://HOST:8265 of the cluster; else cluster.address, else RAY_ADDRESS.")
    ] = None,
) -> None:
    """Run a stage as a job of a Ray cluster, follow it, and have its outs here. Running again attaches to the job.

    `dvc repro` does the same for these stages where cluster.address is such an address.
    """
    import os

    from scadm.cluster.launch import launch
    from scadm.files.store import answering
    from scadm.stage import Stage

    found = Stage(stage)
    where = address or found.params.cluster.address or os.environ.get("RAY_ADDRESS") or ""
    if not where.startswith(("http://", "https://")):
        raise ValueError(
            f"the address is {where or 'not given'}, expected http://HOST:8265, where the cluster takes jobs: give "
            "--address, or set cluster.address in params.yaml or RAY_ADDRESS."
        )
    with answering(found.params.storage.root):
        launch(found, where)


@app.command(epilog="Example: scadm share train && ray job submit --working-dir . -- python -m pipeline.train")
def share(
    outs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Outs, such as data/shards, or stages, for what they read; without any, all that there is.",
            metavar="[OUT|STAGE]...",
        ),
    ] = None,
) -> None:
    """Put outs to a remote storage root, where jobs of a cluster without a common folder find them.

    Which copies a job's inputs are is said in shared.json, which is uploaded with it. `scadm submit` and `dvc repro` do
    this themselves.
    """
    from scadm.cluster.launch import names_to_share
    from scadm.cluster.launch import share as put
    from scadm.files.store import answering
    from scadm.stage import Stage

    stage = Stage("train")
    with answering(stage.params.storage.root):
        put(stage, names_to_share(Path.cwd(), outs or []))


@app.command(epilog="Example: scadm profile celebamask-hq && scadm estimate")
def estimate() -> None:
    """What the training of params.yaml will cost: parameters, FLOPs, memory and time."""
    from scadm.config import load_params
    from scadm.training.estimate import describe
    from scadm.training.estimate import estimate as measure

    params = load_params(Path("params.yaml"))
    channels = params.autoencoder.latent_channels
    found = measure(params.model, channels, params.project.resolution, params.training)
    _say(describe(found, params.training, workers=params.cluster.workers, use_gpu=params.cluster.use_gpu))


@app.command(epilog="Example: scadm import-checkpoint sca-dm.ckpt")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="The checkpoint: .ckpt, .pt or .safetensors.", metavar="FILE")],
    resolution: Annotated[int, typer.Option(help="Side of the images that it was trained on.")] = 256,
    first_stage: Annotated[
        Path | None, typer.Option(help="Folder of a diffusers VQModel, if FILE does not hold the first stage.")
    ] = None,
    name: Annotated[str, typer.Option(help="The registered model whose version it becomes.")] = "sca-dm-published",
) -> None:
    """Take in a published SCA-DM checkpoint: register it, and say how to evaluate or fine-tune it."""
    from scadm.files.checkpoint import read_checkpoint
    from scadm.files.store import Store, answering
    from scadm.import_checkpoint import import_checkpoint as take_in
    from scadm.stage import Stage
    from scadm.training.start import flags, setting, settings

    stage = Stage("train")
    with answering(stage.params.storage.root):
        found = take_in(file, stage, resolution=resolution, first_stage=first_stage, name=name)
        _, config = read_checkpoint(Store(found.weights), [])
    resized = [f"project.resolution={resolution}"] if stage.params.project.resolution != resolution else []
    data = stage.params.data
    if data.source == "synthetic" and data.synthetic.image_size < resolution:
        resized.append(f"data.synthetic.image_size={resolution}")
    changes = [
        *resized,
        "autoencoder.kind=vq-f4",
        setting("autoencoder.weights", str(found.autoencoder / "vq-f4")),
        *settings(config, stage.params),
        f"training.init_from=imports/{found.key}",
    ]
    _say(f"{found.version.uri} is {file.name}; its weights are in {found.weights}.")
    _say(f"Evaluate it on this project's data:\n\n  dvc exp run {flags([*changes, 'training.steps=0'])}\n")
    _say("Fine-tune it: the same with the steps that you want, for example -S training.steps=1000.")


@app.command(epilog="Example, in CI: dvc repro && scadm register --strict")
def register(
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 if the gate rejects the model.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Judge the evaluation in reports/ and say what would happen, no more.")
    ] = False,
) -> None:
    """Register the evaluated model, as the stage `register` does, and say whether it became champion."""
    from scadm.files.store import answering
    from scadm.stage import Stage

    stage = Stage("register")
    with answering(stage.params.storage.root):
        promoted = _would_register(stage) if dry_run else _register(stage)
    if strict and not promoted:
        raise typer.Exit(3)


@app.command(epilog="Example: scadm evaluate --images results/sean --name SEAN && dvc repro report")
def evaluate(
    images: Annotated[Path, typer.Option(help="Folder with a picture ID.png (.jpg, .webp) of each test face.")],
    name: Annotated[str, typer.Option(help="What to call them in the report.")],
) -> None:
    """Score pictures that something else made of the test faces, by the same judges as our own.

    Which faces these are, `reports/faces.csv` says. The scores go to comparisons/NAME.json; `dvc repro report` puts
    them into the table of the reconstruction.
    """
    import torch

    from scadm.data.shards import ShardReader
    from scadm.evaluation import rivals
    from scadm.evaluation.scores import Judges
    from scadm.report.comparisons import Rival, require_name
    from scadm.stage import Stage

    require_name(name)
    stage = Stage("evaluate")
    data, evaluation = stage.manifest("data/shards"), stage.read_json("reports/evaluation.json")
    ids = data.splits["test"][: evaluation["faces"]]
    judges = Judges.load(stage.path("models/parser"), torch.device("cpu"))
    found = Rival(
        name=name,
        data_name=stage.params.project.data_name,
        resolution=stage.params.project.resolution,
        test_split=evaluation["test_split"],
        parser=judges.parser.name,
        measures=rivals.score(judges, ShardReader(stage.place("data/shards"), "test"), images, ids),
    )
    path = found.write(stage.path("comparisons"))
    for metric, measure in found.measures.items():
        _say(f"  {metric} {measure.value:.4g}")
    _say(f"{path.relative_to(Path.cwd())} holds the scores of {len(ids)} faces; `dvc repro report` shows them.")


def _register(stage: "Stage") -> bool:
    from pipeline.register import main as program

    program(stage)
    return stage.read_json("reports/registration.json")["promoted"]


def _would_register(stage: "Stage") -> bool:
    from scadm import promotion
    from scadm.evaluation.evaluated import Evaluated, evaluation_key
    from scadm.registry import CHAMPION

    reports, registry = stage.path("reports"), _registry(stage)
    evaluated = Evaluated.read(reports)
    version, champion = registry.find(evaluation_key(reports)), registry.by_alias(CHAMPION)
    found = promotion.decide(registry.name, evaluated, version, champion, stage.params.registry)
    for line in found.lines(version.label if version else f"a new version of {registry.name}", dry_run=True):
        _say(line)
    _say("A dry run: nothing was registered.")
    return found.promoted


def _registry(stage: "Stage", name: str | None = None) -> "Registry":
    from scadm import tracking
    from scadm.registry import Registry

    uri = tracking.tracking_uri(stage.params.tracking, stage.home)
    return Registry(uri, name or stage.params.project.registered_name)


@app.command(epilog="Example: scadm promote --dry-run; scadm promote 3; scadm promote sca-dm-synthetic-64/3 --force")
def promote(
    version: Annotated[
        str, typer.Argument(help="VERSION or ALIAS of this project's model, or NAME/VERSION.", metavar="[VERSION]")
    ] = "candidate",
    force: Annotated[
        bool, typer.Option("--force", help="Make it champion whatever the gate says; a tag of the version records it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
) -> None:
    """Judge a registered version against the champion, by params.yaml's gate, and make it champion if it passes.

    The alias moves last: where anything fails, the champion is the one it was. Exit status 3 if the gate says no.
    """
    from scadm import promotion
    from scadm.stage import Stage

    stage = Stage("register")
    name, _, which = version.removeprefix("models:/").replace("@", "/").rpartition("/")
    registry = _registry(stage, name)
    with _alone(stage, dry_run):
        if (found := registry.by_number(which) if which.isdigit() else registry.by_alias(which)) is None:
            raise ValueError(
                f"the version is {version!r}, but {registry.name} has none of that number or alias, expected one of "
                f"{', '.join(known.number for known in registry.versions()) or 'none, it has no version yet'}. Nothing "
                "was changed. `scadm register` registers what reports/ says; `make ui` shows what there is."
            )
        decision = promotion.promote(registry, found, stage.params.registry, force=force, dry_run=dry_run)
    for line in decision.lines(found.label, dry_run=dry_run):
        _say(line)
    if dry_run:
        _say("A dry run: nothing was changed.")
    if not decision.promoted:
        raise typer.Exit(3)


@app.command(epilog="Example: scadm rollback --dry-run && scadm rollback")
def rollback(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
) -> None:
    """Make the version champion again that was it before the present one; once more goes one further back.

    The version that is left becomes champion again by `scadm promote VERSION --force` only.
    """
    from scadm import promotion
    from scadm.stage import Stage

    stage = Stage("register")
    registry = _registry(stage)
    with _alone(stage, dry_run):
        left, champion = promotion.rollback(registry, dry_run=dry_run)
    _say(f"{champion.label} {'would be' if dry_run else 'is'} champion again, in place of version {left.number}")
    _say("A dry run: nothing was changed." if dry_run else f"`scadm promote {left.label} --force` undoes it.")


def _alone(stage: "Stage", dry_run: bool) -> AbstractContextManager[None]:
    """Who only looks waits for nobody."""
    from scadm import promotion

    return nullcontext() if dry_run else promotion.alone(stage.home, _say)


@app.command(epilog="Example, after a crash or a full disk: scadm verify")
def verify() -> None:
    """Compare every out, checkpoint, import and download with the sha256 that was recorded when it was written.

    Also each out with the outs that it says it was made from, and the trained weights with models/train.json.
    """
    from scadm.app import storage
    from scadm.config import load_params
    from scadm.files.store import answering

    faults, root = 0, load_params(Path("params.yaml")).storage.root
    with answering(root):
        for found in storage.verify(Path.cwd(), root):
            said = found.fault or found.absent
            state = "fault" if found.fault else "absent" if found.absent else "ok"
            _say(f"{state:<7}{found.name}{': ' + said if said else ''}")
            faults += bool(found.fault)
    if faults:
        _say(f"{faults} fault(s).")
        raise typer.Exit(1)


@app.command(epilog="Example: scadm gc --free work --free runs --older 14")
def gc(
    free: Annotated[
        list[str], typer.Option(help="One of the kinds that are listed, such as work or runs; may be repeated.")
    ] = [],  # noqa: B006
    older: Annotated[float | None, typer.Option(help="Days since it was written to; --free needs it.", min=0)] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Free also trainings and downloads that could be resumed.")
    ] = False,
) -> None:
    """List what is kept beside DVC's cache, by size and age; with --free and --older, delete it.

    The run of models/train.json stays, and so does what params.yaml names, what a running stage works in, and what was
    written to within the hour.
    """
    from scadm.app import storage
    from scadm.config import load_params

    if unknown := set(free) - storage.KINDS.keys():
        raise ValueError(f"--free {', '.join(sorted(unknown))}, expected {', '.join(storage.KINDS)}")
    if free and older is None:
        raise ValueError(
            f"--free {' --free '.join(free)} without --older, expected the days since it was written to: --older 14 "
            "keeps what is younger than two weeks, --older 0 only what is in use. Nothing was deleted."
        )
    every = storage.kept(Path.cwd(), load_params(Path("params.yaml")))
    chosen = [item for item in every if item.age >= (older or 0) * 86_400]
    for kind, meaning in storage.KINDS.items():
        _say(f"{kind}: {meaning}")
        for item in chosen:
            if item.kind == kind:
                remarks = [item.in_use, "unfinished: can be resumed" if item.unfinished else ""]
                said = "; ".join(filter(None, remarks))
                stays = f"  ({said})" if said else ""
                _say(f"  {item.bytes / 1e6:10.1f} MB  {item.age / 86_400:6.1f} days  {item.path}{stays}")
    if free:
        wanted = [item for item in chosen if item.kind in free]
        _say(f"{storage.free(wanted, unfinished=unfinished) / 1e6:.1f} MB freed.")
        resumable = [item for item in wanted if item.unfinished and not item.in_use]
        if resumable and not unfinished:
            _say(f"{len(resumable)} that could be resumed stayed; --unfinished frees them too.")
    else:
        _say(
            "`scadm gc --free KIND --older DAYS` frees what is not in use and finished, --unfinished also what could "
            "be resumed; `dvc gc -w` frees DVC's cache."
        )


def main() -> None:
    """The entry point: what the user can mend ends in one message on stderr and exit status 1.

    No line holds a password of an address.
    """
    try:
        app()
    except ValueError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        sys.excepthook = redacted_traceback  # typer has set one of its own, which shows the message as it is
        raise
