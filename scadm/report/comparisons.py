"""What this model is compared with: the paper's quoted rows, rivals' pictures scored here, and the ablation's models.

They lie in the folder comparisons/: quoted.json, ablation.json, and a file for each rival.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scadm.evaluation.measure import Measure
from scadm.files.manifest import write_atomically

QUOTED, ABLATION = "quoted.json", "ablation.json"
OURS = ("style_blind", "own_colours", "champion", "model", "ceiling")
"""Rows of the table that a rival's stands in."""


def require_name(name: str) -> None:
    """Raise ValueError for a rival's name that would not do as a file's, or that is another row's."""
    taken = (*OURS, Path(QUOTED).stem, Path(ABLATION).stem)
    if not re.fullmatch(r"\w[\w .+-]*", name) or name in taken:
        raise ValueError(
            f"the name is {name!r}, expected letters, digits, blanks and . + - _, and none of {', '.join(taken)}, "
            "which have a meaning of their own. Choose another --name."
        )


@dataclass(frozen=True)
class Rival:
    """Pictures of the test faces that something else made, as they were scored here."""

    name: str
    data_name: str
    resolution: int
    test_split: str
    """Digest of the faces that were measured."""
    parser: str
    measures: dict[str, Measure]
    """As of a row of the reconstruction."""

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.json"
        write_atomically(
            path,
            json.dumps({**vars(self), "measures": {k: list(m) for k, m in self.measures.items()}}, indent=1) + "\n",
        )
        return path

    @classmethod
    def read(cls, path: Path) -> "Rival":
        """Raises ValueError where the file is none."""
        tree = json.loads(path.read_text())
        try:
            return cls(**{**tree, "measures": {name: Measure(*ends) for name, ends in tree["measures"].items()}})
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is not a rival's scores ({error}). Every file of {path.parent} but {QUOTED} and {ABLATION} is "
                "expected to be written by `scadm evaluate --images FOLDER --name NAME`: do so again, or take it away."
            ) from None


@dataclass(frozen=True)
class Comparisons:
    quoted: dict[str, Any]
    ablation: dict[str, Any] | None
    rivals: list[Rival]

    @classmethod
    def read(cls, folder: Path) -> "Comparisons":
        rivals = [Rival.read(p) for p in sorted(folder.glob("*.json")) if p.name not in (QUOTED, ABLATION)]
        ablation = folder / ABLATION
        return cls(
            quoted=json.loads((folder / QUOTED).read_text()),
            ablation=json.loads(ablation.read_text()) if ablation.is_file() else None,
            rivals=rivals,
        )
