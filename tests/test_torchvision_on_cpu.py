"""The hook that lets torchvision's CUDA build be imported beside a CPU torch, and stays out of everything else."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT

from infra.torchvision_on_cpu import FAILS, PTH

TORCH = """
class Library:
    def __init__(self, name, kind): assert (name, kind) == ("torchvision", "DEF")
    def define(self, schema): declared.append(schema.partition("(")[0])
declared = []
class library: Library = Library
"""
EXTENSION = """
import builtins
builtins.runs = [*getattr(builtins, "runs", []), 1]
"""
TORCHVISION = f"""
from torchvision import extension
import torch
if torch.declared != ["nms", "qnms"]:
    raise RuntimeError("{FAILS}")
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages with the hook as it is installed, and stand-ins for torch and torchvision."""
    shutil.copy(ROOT / "infra" / "torchvision_on_cpu.py", tmp_path)
    (tmp_path / "torchvision_on_cpu.pth").write_text(PTH)
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(TORCHVISION)
    (tmp_path / "torchvision" / "extension.py").write_text(EXTENSION)
    return tmp_path


def run(site: Path, program: str) -> subprocess.CompletedProcess[str]:
    """A process whose only packages are those of `site`."""
    start = f"import site, sys; sys.path.append({str(site)!r}); site.addsitedir({str(site)!r})\n"
    return subprocess.run([sys.executable, "-I", "-S", "-c", start + program], capture_output=True, text=True)


def passes(site: Path, program: str) -> None:
    done = run(site, program)
    assert done.returncode == 0, done.stderr


def test_without_the_hook_the_import_fails(site: Path) -> None:
    (site / "torchvision_on_cpu.pth").unlink()
    assert FAILS in run(site, "import torchvision").stderr


def test_with_it_the_import_passes_and_nothing_shows(site: Path) -> None:
    passes(
        site,
        "import torchvision, torchvision.extension as extension, torch, builtins, importlib.machinery as machinery\n"
        "assert torch.declared == ['nms', 'qnms'] and builtins.runs == [1, 1]\n"
        "assert torchvision.extension is extension is sys.modules['torchvision.extension']\n"
        "assert type(torchvision.__loader__) is type(torchvision.__spec__.loader) is machinery.SourceFileLoader",
    )


def test_a_process_that_does_not_import_torchvision_pays_nothing(site: Path) -> None:
    passes(
        site,
        "before = set(sys.modules)\n"
        "import importlib.util\n"
        "assert 'torchvision_on_cpu' in before and 'torch' not in before and 'importlib.util' not in before\n"
        "assert importlib.util.find_spec('torchvision').origin.endswith('__init__.py')\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert not torch.declared and 'torchvision' not in sys.modules",
    )


def test_a_torchvision_that_fits_is_left_alone(site: Path) -> None:
    (site / "torchvision" / "__init__.py").write_text("import torch")
    passes(site, "import torch, torchvision; assert not torch.declared")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("raise RuntimeError('another CUDA version')", "RuntimeError: another CUDA version"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        (f"raise ImportError('{FAILS}')", "ImportError: "),
    ],
)
def test_other_errors_pass_as_they_are(site: Path, content: str, error: str) -> None:
    (site / "torchvision" / "__init__.py").write_text(content)
    assert error in run(site, "import torchvision").stderr
    passes(site, "import torch\ntry: import torchvision\nexcept Exception: assert not torch.declared")


def test_without_torchvision_nothing_is_found(site: Path) -> None:
    shutil.rmtree(site / "torchvision")
    passes(site, "import importlib.util; assert importlib.util.find_spec('torchvision') is None")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision (pip install '.[dev]')")
def test_the_real_torchvision_can_be_imported_here() -> None:
    program = "import torch, torchvision; net = torchvision.models.alexnet(weights=None).features\n"
    program += "assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 1, 1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
