"""The command line, `scadm`. Commands import what they need when they run, so that `--help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="SCA-DM Pipeline: part-by-part face synthesis.")


@app.callback()
def _main() -> None:
    """The stages themselves run by `dvc repro`; see README.md."""


@app.command(epilog="Example: scadm profile smoke && dvc repro")
def profile(
    name: Annotated[str, typer.Argument(help="A file of conf/, without .yaml.", metavar="NAME")],
) -> None:
    """Write the profile NAME to params.yaml, and show what that changes."""
    from scadm import profiles

    changes = profiles.write(name)
    for change in changes:
        print(f"  {change.key}: {change.before} -> {change.after}")
    print(f"params.yaml is now profile {name} ({len(changes)} values changed). `dvc repro` runs it.")


@app.command(epilog="Example: scadm profile celebamask-hq && scadm estimate")
def estimate() -> None:
    """What the training of params.yaml will cost: parameters, FLOPs, memory and time."""
    from scadm.config import load_params
    from scadm.training.estimate import describe
    from scadm.training.estimate import estimate as measure

    params = load_params(Path("params.yaml"))
    channels = params.autoencoder.network.latent_channels
    found = measure(params.model, channels, params.project.resolution, params.training)
    print(describe(found, params.training, workers=params.cluster.workers, use_gpu=params.cluster.use_gpu))


@app.command(epilog="Example, in CI: dvc repro && scadm register --strict")
def register(
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 if the gate rejects the model.")] = False,
) -> None:
    """Register the evaluated model, as the stage `register` does, and say whether it became champion."""
    from pipeline.register import main as program
    from scadm.stage import Stage

    stage = Stage("register")
    program(stage)
    if strict and not stage.read_json("reports/registration.json")["promoted"]:
        raise typer.Exit(3)


def main() -> None:
    """The entry point: what the user can mend ends in one message on stderr and exit status 1."""
    try:
        app()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
