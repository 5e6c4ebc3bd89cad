"""The report page."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toy_faces import ToyFaces

from scadm.evaluation.figures import contact_sheet
from scadm.evaluation.report import Curve, Figure, Finding, ReportData, write_report


def row(ssim: float) -> dict[str, float]:
    return {"ssim": ssim, "psnr": 20 + ssim, "miou": 0.7, "accuracy": 0.9, "frechet_small-64": 1.25}


@pytest.fixture
def data() -> ReportData:
    source = ToyFaces(2)
    sheet = contact_sheet({"mask": source.labels, "truth": source.images})
    return ReportData(
        title="Faces & parts <64>",
        summary="120 test faces.",
        rows={"style_blind": row(0.4), "own_colours": row(0.5), "model": row(0.58), "ceiling": row(0.8)},
        class_iou={"model": {"skin": 0.81, "hat": 0.4}, "ceiling": {"skin": 0.92}},
        conditioning=[
            Finding(
                "Hair", "It is taken.", ("transfer", "leakage"), {"model": ("0.7 (0.6 to 0.8)", "0.1")}, "98 pairs."
            ),
            Finding("Losses", "Not measured: one face."),
        ],
        figures=[Figure("Reconstruction", "Mask and truth.", sheet)],
        curves=[
            Curve("training", list(range(100)), np.geomspace(1, 0.05, 100).tolist()),
            Curve("validation", [25, 50], [0.3, 0.2]),
        ],
        lineage={"runs": {"run key": "00ff", "script": "<script>alert(1)</script>"}},
        limits=["The parser errs itself."],
        quote_paper=False,
    )


class Page(HTMLParser):
    """The page's text, and every address that it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def read(path: Path) -> Page:
    page = Page(path.read_text())
    assert not page.open, f"unclosed {page.open}"
    return page


def test_the_page_says_it_all_and_loads_nothing(data: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "reports" / "index.html"
    write_report(path, data)
    page = read(path)
    text = " ".join(page.text)
    for said in (
        "Faces & parts <64>",
        "120 test faces.",
        "0.580",
        "45%",
        "Fréchet, small-64",
        "not shown",
        "Mask and truth.",
        "Is the conditioning used?",
        "It is taken.",
        "0.7 (0.6 to 0.8)",
        "98 pairs.",
        "Not measured: one face.",
        "<script>alert(1)</script>",
        "The parser errs itself.",
        "validation",
    ):
        assert said in text, said
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "svg" in page.tags


def test_equal_data_write_equal_pages(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", data)
    write_report(tmp_path / "b.html", data)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_papers_numbers_stand_only_where_they_belong(data: ReportData, tmp_path: Path) -> None:
    for quoted in (False, True):
        write_report(tmp_path / "index.html", replace(data, quote_paper=quoted))
        text = " ".join(read(tmp_path / "index.html").text)
        assert ("81.78" in text) == ("not comparable" in text) == quoted


def test_a_report_without_pictures_or_curves_is_still_a_page(data: ReportData, tmp_path: Path) -> None:
    nothing = {"conditioning": [], "figures": [], "curves": [], "class_iou": {}, "lineage": {}, "limits": []}
    write_report(tmp_path / "index.html", replace(data, **nothing))
    assert not {"svg", "img", "details"} & set(read(tmp_path / "index.html").tags)


def test_no_way_from_floor_to_ceiling_is_said(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "index.html", replace(data, rows=dict(data.rows) | {"ceiling": row(0.3)}))
    assert "no way to go" in " ".join(read(tmp_path / "index.html").text)


def test_numbers_without_their_meaning_are_refused(data: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    for rows, message in (
        ({"model": row(0.5)}, "expected also"),
        (dict(data.rows) | {"model": {"ssim": 0.5}}, "like the ceiling"),
        (dict(data.rows) | {"model": row(float("nan"))}, "ssim of the row model is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(path, replace(data, rows=rows))
    assert not path.exists()
