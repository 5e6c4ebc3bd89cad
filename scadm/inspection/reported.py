"""Faces of CelebAMask-HQ that people have reported as faulty; reported.csv says which, what is wrong, and who says it.

Reports, most of them of 2019 to 2021: the archive may have been mended since. They hold for the ids of the whole
archive only; a smaller one may number its faces anew.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scadm.data import official


class Report(NamedTuple):
    id: str
    what: str
    source: str
    """Address of the report."""


def reports() -> list[Report]:
    """All of them, in order of id."""
    with Path(__file__).with_name("reported.csv").open(newline="") as file:
        return [Report(**row) for row in csv.DictReader(file)]


def reported(ids: Sequence[str], faces: int) -> list[Report]:
    """Those about the given ids, if their archive of so many `faces` is the whole one."""
    known = set(ids)
    return [report for report in reports() if report.id in known] if faces == official.IMAGES else []
