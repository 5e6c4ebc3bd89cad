"""What the tests of infra/ share: its files, the steps of its Dockerfile, and how Ray reads `ray drain-node`."""

import re
from pathlib import Path
from typing import Any

import yaml
from ray.scripts.scripts import cli as ray_command

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
README = (INFRA / "README.md").read_text()
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def load(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text())


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments, continued lines joined and comments left out."""
    lines = [line for line in (INFRA / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage of the build, after its FROM."""
    found: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for word, rest in instructions():
        if word == "FROM":
            current = rest.split(" AS ")[1]
        found.setdefault(current, []).append((word, rest))
    return found[name][1:]


def drained(arguments: list[str]) -> dict[str, Any]:
    """What Ray's own command line makes of `ray ARGUMENTS`, which must be a drain-node for a preemption."""
    name, *options = arguments
    assert name == "drain-node"
    chosen = ray_command.commands[name].make_context(name, options).params
    assert chosen["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    return chosen
