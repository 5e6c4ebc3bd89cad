"""Let torchvision's CUDA build be imported beside a CPU build of torch.

PyPI's wheel of torchvision for Linux is built for CUDA. Beside a CPU torch its library of operators is not loaded, and
the import ends in `operator torchvision::nms does not exist`, because it describes two operators that nobody has
declared. Declared, they stay without code: transforms, models and all that is written in Python work, and whoever calls
`nms` is told that it has none.

This mends an environment, not the product, and only where it is broken: `python infra/torchvision_on_cpu.py` tries the
import, and on that error copies this file into site-packages, with a line in a `.pth` file that has every process of
the environment call `watch` at its start. That costs no import: the import of torchvision is what brings in torch.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # at the start of every process, nothing is imported that is not there already
    from collections.abc import Sequence
    from importlib.abc import Loader as AnyLoader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from torch.library import Library

FAILS = "operator torchvision::nms does not exist"
UNDECLARED = ("nms", "qnms")
SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
PTH = "import torchvision_on_cpu; torchvision_on_cpu.watch()\n"

_libraries: list[Library] = []  # the operators are declared as long as the library lives


def declare() -> None:
    """Declare the operators, once."""
    if _libraries:
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    _libraries.append(library)
    for name in UNDECLARED:
        library.define(SCHEMA.format(name))


class Loader:
    """Runs torchvision as its own loader does, and once more where the operators were missing."""

    def __init__(self, spec: ModuleSpec, own: AnyLoader) -> None:
        self.spec, self.own = spec, own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.spec.loader = module.__loader__ = self.own  # for those who ask later, nobody has stood between
        try:
            self.own.exec_module(module)
        except RuntimeError as error:
            if FAILS not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]  # half-imported
            declare()
            self.own.exec_module(module)


class Finder:
    """Finds torchvision as the other finders of `sys.meta_path` do, and wraps its loader."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        others = (finder for finder in sys.meta_path if finder is not cls)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec, spec.loader)  # pyright: ignore[reportAttributeAccessIssue]
        return spec


def watch() -> None:
    """Stand before the import of torchvision in this process."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def main() -> int:
    """Mend this environment if it needs it. Returns the exit status: 1 where torchvision fails in another way."""
    import shutil
    import subprocess
    import sysconfig
    from pathlib import Path

    def fault() -> str:
        tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
        return "" if tried.returncode == 0 else tried.stderr.strip()

    error = fault()
    if FAILS in error:
        site = Path(sysconfig.get_path("purelib"))
        shutil.copyfile(__file__, site / "torchvision_on_cpu.py")
        (site / "torchvision_on_cpu.pth").write_text(PTH)
        error = fault()
        print(f"torchvision is a CUDA build beside a CPU torch: {site}/torchvision_on_cpu.pth lets it be imported")
    if error:
        print(f"torchvision cannot be imported, and neither can what rests on it:\n{error}", file=sys.stderr)
    return int(bool(error))


if __name__ == "__main__":
    sys.exit(main())
