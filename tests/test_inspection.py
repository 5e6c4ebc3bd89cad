"""The report on the data."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_faces import ToyFaces

from scadm import faces
from scadm.data.tables import Face, FaceTable, part_name, write_part
from scadm.files.manifest import Split
from scadm.inspection.page import as_json, write_page
from scadm.inspection.reported import reported, reports
from scadm.inspection.survey import Survey, survey

COUNT, SIDE = 24, 32
SPLIT_OF: list[Split] = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FaceTable:
    folder = tmp_path_factory.mktemp("tables")
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(images[3][:, ::-1]).save(jpeg, "JPEG", quality=80)
    images[21] = np.asarray(Image.open(jpeg))  # the fourth face again, mirrored, in the test split
    labels = ToyFaces(COUNT, SIDE, seed=0).labels
    labels[5] = 0
    rows = [Face(f"{i:05d}", SPLIT_OF[i], images[i], labels[i]) for i in range(COUNT)]
    write_part(folder / part_name(0, COUNT - 1), rows, SIDE)
    return FaceTable(folder, None)


@pytest.fixture(scope="module")
def found(table: FaceTable) -> Survey:
    return survey(table, SPLIT_OF, lambda _: None, photographs=True)


def test_twins_in_two_splits_are_found(found: Survey) -> None:
    assert found.twins is not None
    (twins,) = found.twins
    assert (twins.first, twins.second) == (21, 3)
    assert twins.correlation > 0.95


def test_drawn_faces_are_alike_without_being_twins(table: FaceTable, tmp_path: Path) -> None:
    drawn = survey(table, SPLIT_OF, lambda _: None, photographs=False)
    assert drawn.twins is None and as_json(drawn, [])["twins"] == []
    write_page(tmp_path / "data.html", drawn, [], table, "The faces", None)
    page = (tmp_path / "data.html").read_text()
    assert "not looked for" in page and "of another split" not in page


def test_every_class_has_its_shares_and_examples(found: Survey, table: FaceTable) -> None:
    assert [c.name for c in found.classes] == list(faces.LABELS)
    for k, c in enumerate(found.classes):
        areas = table.pixels[list(c.examples), k]
        assert (areas > 0).all() and (np.diff(areas) >= 0).all(), "from the smallest to the largest"
        assert bool(c.examples) == (c.faces > 0)


def test_suspicious_faces_are_listed_by_id(found: Survey) -> None:
    tree = as_json(found, [])
    assert "00005" in tree["suspicious"]["no_skin"] and "00005" in tree["suspicious"]["few_classes"]
    assert tree["faces"] == {"train": 16, "validation": 4, "test": 4}
    assert tree["twins"] == [{"face": "00021", "twin": "00003", "correlation": pytest.approx(0.98, abs=0.03)}]


def test_the_page_shows_them(found: Survey, table: FaceTable, tmp_path: Path) -> None:
    write_page(tmp_path / "data.html", found, [], table, "The faces", "For tests only.")
    page = (tmp_path / "data.html").read_text()
    for text in ("The faces", "For tests only.", "there is no skin", "00021 and 00003", "24 faces: 16 train"):
        assert text in page
    shown = sum(1 for c in found.classes if c.examples)
    rules = len({suspicion.rule for suspicion in found.suspicions})
    assert page.count("data:image/png;base64,") == shown + rules + 1
    assert "http" not in page


def test_what_others_reported_is_shown_with_its_source(found: Survey, table: FaceTable, tmp_path: Path) -> None:
    some = [reports()[0]._replace(id="00007")]
    write_page(tmp_path / "data.html", found, some, table, "The faces", None)
    page = (tmp_path / "data.html").read_text()
    assert f"00007: {some[0].what}" in page and f'href="{some[0].source}"' in page
    assert as_json(found, some)["reported"] == [some[0]._asdict()]


def test_reports_hold_for_the_whole_archive_only() -> None:
    every = reports()
    assert [report.id for report in every] == sorted({report.id for report in every})
    assert all(len(report.id) == 5 and report.what and report.source.startswith("https://") for report in every)
    ids = [f"{i:05d}" for i in range(6000)]
    assert {report.id for report in reported(ids, 30_000)} == {report.id for report in every if report.id < "06000"}
    assert reported(ids, 6000) == []
