"""Who may import what: the library runs without Ray and MLflow, and each of the two has its place."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "scadm").rglob("*.py"))


def test_the_library_runs_without_ray_and_mlflow() -> None:
    within = [file for file in FILES if file.parent.name in ("data", "training", "evaluation")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in within if file.stem != "__init__"]
    assert "scadm.evaluation.summary" in names and "scadm.training.loop" in names
    program = "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None\n"
    program += "".join(f"import {name}\n" for name in names)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def importers(library: str) -> set[str]:
    """Files that import a library, at their top or within a function."""
    found = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            if any(name.split(".")[0] == library for name in names):
                found.add(file.relative_to(ROOT / "scadm").as_posix())
    return found


def test_ray_and_mlflow_have_their_places() -> None:
    assert {Path(file).parts[0] for file in importers("ray")} == {"cluster"}
    assert importers("mlflow") == {"tracking.py", "registry.py", "serving.py"}
