"""An evaluation as its readers find it: the same three files in reports/ and in a registered version."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scadm.files.manifest import digest, sha256

METRICS, FACTS, FACES = "metrics.json", "evaluation.json", "faces.csv"
FILES = (METRICS, FACTS, FACES)
MODEL = "model"

Metrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""{task: {row: {metric: value}}}."""


@dataclass(frozen=True)
class Evaluated:
    metrics: Metrics
    facts: Mapping[str, Any]
    """What was measured on what: run_key, weights_sha256, test_split, faces, parser, ..."""
    ssim: Mapping[str, float]
    """The model's reconstruction of each test face, by the face's id."""

    @property
    def test_split(self) -> str:
        return str(self.facts.get("test_split", ""))

    @classmethod
    def read(cls, folder: Path) -> "Evaluated":
        """Raises ValueError naming the file where one is missing or is not what it should be."""
        metrics, facts = (_tree(folder / name) for name in (METRICS, FACTS))
        return cls(metrics, facts, _ssim(folder / FACES))


def evaluation_key(folder: Path) -> str:
    """By which an evaluation is known, and registered once: the digest of its three files."""
    return digest({name: sha256(folder / name) for name in FILES})


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). {_REMEDY}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds {type(tree).__name__}, expected a table of names and values. {_REMEDY}")
    return tree


def _ssim(path: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, line in enumerate(csv.DictReader(_text(path).splitlines()), 2):
        if missing := {"id", "row", "ssim"} - line.keys():
            raise ValueError(f"{path} lacks the columns {sorted(missing)}: no face can be compared. {_REMEDY}")
        if line["row"] == MODEL:
            try:
                value = float(line["ssim"])
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value) or line["id"] in found:
                raise ValueError(
                    f"line {number} of {path} has SSIM {line['ssim']!r} for face {line['id']!r}, expected one finite "
                    f"number for each face: a mean over them would mean nothing. {_REMEDY}"
                )
            found[line["id"]] = value
    if not found:
        raise ValueError(f"{path} has no line of the row {MODEL}, expected one for each test face. {_REMEDY}")
    return found


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a file of an evaluation. {_REMEDY}")
    return path.read_text()


_REMEDY = "Run `dvc repro evaluate`."
