"""A copy of the project that a trial may change."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
_OUTS = ("data/shards", "models/autoencoder")  # what the training reads
_CODE_AND_DATA = ("scadm", "pipeline", "data", "models", "storage", ".work")


def copy(source: Path, target: Path) -> None:
    """Copy the working tree as it is now: the files that git knows or could know."""
    done = subprocess.run(
        ["git", "-C", str(source), "ls-files", "--cached", "--others", "--exclude-standard"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ValueError(
            f"{source} is no checkout of git, so that its files cannot be told from what it has made: "
            f"{done.stderr.strip()}"
        )
    for name in done.stdout.splitlines():
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def copy_outs(source: Path, target: Path) -> None:
    for name in _OUTS:
        shutil.copytree(source / name, target / name)


def change(folder: Path, values: Mapping[str, Any]) -> None:
    """Set parameters of a project, named `section.key`."""
    path = folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    for key, value in values.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.get(section, {})
        if name not in place:
            raise ValueError(f"{key} is no parameter of {path}, so that nothing would read it.")
        place[name] = value
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def folders_of_code_and_data() -> list[Path]:
    """Those of the project that this script belongs to, and of the one that `import scadm` finds by itself."""
    found = subprocess.run(
        [sys.executable, "-I", "-c", "import scadm; print(scadm.__path__[0])"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    roots = {ROOT, *([Path(found).parent] if found else [])}
    return [root / name for root in sorted(roots) for name in _CODE_AND_DATA if (root / name).is_dir()]
