"""Who may import what: the library runs without Ray and MLflow, and each of the two has its place."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "scadm").rglob("*.py"))


def test_the_library_runs_without_ray_and_mlflow() -> None:
    within = [file for file in FILES if file.parent.name in ("data", "training", "evaluation", "report")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in within if file.stem != "__init__"]
    assert "scadm.evaluation.measured" in names and "scadm.training.loop" in names
    program = "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None\n"
    program += "".join(f"import {name}\n" for name in names)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports, at its top or within a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def importers(library: str) -> set[str]:
    return {file.relative_to(ROOT / "scadm").as_posix() for file in FILES if library in imported(file)}


def test_ray_and_mlflow_have_their_places() -> None:
    assert {Path(file).parts[0] for file in importers("ray")} == {"cluster"}
    assert {Path(file).parts[0] for file in importers("mlflow")} == {"tracking", "registry.py", "serving.py"}


def test_what_is_imported_is_declared_and_the_reverse() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]}
    files = [*FILES, *(ROOT / "pipeline").glob("*.py")]
    names = set().union(*map(imported, files)) - sys.stdlib_module_names - {"scadm", "pipeline"}
    names -= {"facer"}  # of the extra `faces`, within the function that needs it; those of `metrics` by their names
    other_names = {"PIL": "pillow", "yaml": "pyyaml", "ruamel": "ruamel.yaml"}
    assert {other_names.get(name, name) for name in names} | {"dvc"} == declared, "dvc is a command only"
