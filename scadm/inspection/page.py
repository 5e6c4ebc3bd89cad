"""The data report: one HTML page, and the same in JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scadm.data.tables import FaceTable
from scadm.faces import CLASS_ID, PALETTE
from scadm.files.manifest import write_atomically
from scadm.inspection.reported import Report
from scadm.inspection.survey import Survey
from scadm.inspection.suspects import RULES
from scadm.pages import pages

SHOWN = 24
"""Faces of a rule, or pairs of twins, that the page shows; the JSON lists all."""

_TILE = 96
_GAP = 4


def as_json(survey: Survey, reported: Sequence[Report]) -> dict[str, Any]:
    """With ids instead of positions."""
    broken: dict[str, list[str]] = {rule: [] for rule in RULES}
    for suspicion in survey.suspicions:
        broken[suspicion.rule].append(survey.ids[suspicion.position])
    return {
        "faces": survey.splits,
        "classes": {c.name: {"faces": c.faces, "area": c.area} for c in survey.classes},
        "side_agreement": survey.side_agreement,
        "suspicious": broken,
        "twins": [
            {"face": survey.ids[t.first], "twin": survey.ids[t.second], "correlation": round(t.correlation, 4)}
            for t in survey.twins or ()
        ],
        "reported": [report._asdict() for report in reported],
    }


def write_page(
    path: Path, survey: Survey, reported: Sequence[Report], table: FaceTable, title: str, terms: str | None
) -> None:
    """Write the page; `table` holds the faces that were surveyed, `reported` are those of them that others reported."""

    def strip(positions: Sequence[int], part: str | None = None) -> Image.Image:
        images, labels = table.batch(positions)
        return _strip([_overlaid(*face, part) for face in zip(images, labels, strict=True)])

    def plain(positions: Sequence[int]) -> Image.Image:
        return _strip([_tile(image) for image in table.batch(positions)[0]])

    suspects = {}
    for rule, meaning in RULES.items():
        positions = [s.position for s in survey.suspicions if s.rule == rule]
        if positions:
            chosen = positions[:SHOWN]
            names = ", ".join(survey.ids[position] for position in chosen)
            more = len(positions) - len(chosen)
            suspects[rule] = (meaning, len(positions), names + (f" and {more} more" if more else ""), strip(chosen))
    shown = (survey.twins or ())[: SHOWN // 2]
    page = (
        pages("scadm.inspection")
        .get_template("data.html.j2")
        .render(
            title=title,
            terms=terms,
            survey=survey,
            total=len(table),
            named={c.name: ", ".join(survey.ids[n] for n in c.examples) for c in survey.classes if c.examples},
            examples={c.name: strip(c.examples, c.name) for c in survey.classes if c.examples},
            suspects=suspects,
            reported=reported,
            reported_faces=strip([table.ids.index(report.id) for report in reported]) if reported else None,
            twins=plain([place for pair in shown for place in (pair.first, pair.second)]) if shown else None,
            pairs=", ".join(f"{survey.ids[t.first]} and {survey.ids[t.second]}" for t in shown),
        )
    )
    write_atomically(path, page)


def _overlaid(image: NDArray[np.uint8], labels: NDArray[np.uint8], part: str | None) -> Image.Image:
    """A face under its mask's colours; of one part only, the rest of the face made pale."""
    colours = PALETTE[labels].astype(np.float32)
    face = image.astype(np.float32)
    if part is None:
        mixed = 0.55 * face + 0.45 * colours
    else:
        inside = (labels == CLASS_ID[part])[..., None]
        mixed = np.where(inside, 0.6 * face + 0.4 * colours, 0.4 * face + 0.6 * 255)
    return _tile(mixed.round().astype(np.uint8))


def _tile(image: NDArray[np.uint8]) -> Image.Image:
    way = Image.Resampling.BICUBIC if len(image) > _TILE else Image.Resampling.NEAREST
    return Image.fromarray(image).resize((_TILE, _TILE), way)


def _strip(tiles: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    rows = -(-len(tiles) // columns)
    width = min(len(tiles), columns)
    sheet = Image.new("RGB", (width * (_TILE + _GAP) - _GAP, rows * (_TILE + _GAP) - _GAP), (255, 255, 255))
    for n, tile in enumerate(tiles):
        sheet.paste(tile, ((n % columns) * (_TILE + _GAP), (n // columns) * (_TILE + _GAP)))
    return sheet
