"""The report as a page: sections of tables, pictures and plots, in one HTML file that is readable anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from scadm.evaluation.figures import Figure
from scadm.files.manifest import write_atomically
from scadm.pages import pages


@dataclass(frozen=True)
class Cell:
    """A number as it is to be shown."""

    text: str
    detail: str = ""
    """Its interval, in small print."""
    bar: float | None = None
    """Width of a bar beside it, in per cent."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under the same columns."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    caption: str = ""
    """What was measured, and how."""
    marked: Sequence[str] = ()
    """Rows that stand out."""
    quoted: Sequence[str] = ()
    """Rows that were not measured here."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """{row: what it is}, below the table."""
    first: str = ""
    """Title of the rows' names."""


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[str] = ()
    """SVG elements."""
    figures: Sequence[Figure] = ()
    points: Sequence[str] = ()
    """A list of sentences."""
    folded: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{title: {name: value}}, to be unfolded by who wants it."""


@dataclass(frozen=True)
class Page:
    title: str
    summary: str
    """One paragraph."""
    verdict: str
    """What the gate says, a word."""
    promoted: bool
    sections: Sequence[Section]


def write_page(path: Path, page: Page) -> None:
    """Write the page to `path`, whole or not at all."""
    template = pages("scadm.report").get_template("report.html.j2")
    write_atomically(path, template.render(page=page, svg=Markup))
