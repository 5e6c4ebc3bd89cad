"""The report: what it says of results, and that the page stands alone."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from toy_faces import ToyFaces

from scadm import profiles
from scadm.config import validate
from scadm.evaluation.figures import Figure, contact_sheet
from scadm.evaluation.measure import Measure
from scadm.files.manifest import Manifest
from scadm.report.comparisons import Comparisons, Rival
from scadm.report.page import Cell, Page, Section, Table, write_page
from scadm.report.results import Results, joined
from scadm.report.sections import page

ROOT = Path(__file__).resolve().parents[1]


def row(ssim: float, **more: Measure) -> dict[str, Measure]:
    return {
        "ssim": Measure(ssim, ssim - 0.01, ssim + 0.02),
        "psnr": Measure(20 + ssim),
        "miou": Measure(0.7, 0.6, 0.8),
        "accuracy": Measure(0.9, 0.8, 0.95),
        "frechet_small-64": Measure(1.25),
        "kernel_small-64": Measure(0.0123),
        "kernel_small-64_std": Measure(0.0011),
        **more,
    }


@pytest.fixture
def results() -> Results:
    faces = ToyFaces(2)
    sheet = contact_sheet({"mask": faces.labels, "truth": faces.images})
    transfer = {
        "transfer": Measure(0.9, 0.8, 1.0),
        "arrival": Measure(0.7, 0.6, 0.8),
        "leakage": Measure(0.05, 0.04, 0.06),
    }
    steps = {"frechet_small-64": Measure(0.8), "miou": Measure(0.6, 0.5, 0.7)}
    return Results(
        params=validate(yaml.safe_load(profiles.render("quickstart", ROOT / "conf")), "quickstart"),
        data=Manifest(
            stage="latents",
            resolution=64,
            splits={"train": ["a"] * 9, "validation": ["b"] * 3, "test": ["c"] * 4},
            autoencoder="00ae",
        ),
        trained={"run_key": "00ff", "mlflow_run": "<script>alert(1)</script>", "sha256": "aa"},
        evaluation={
            "test_split": "d" * 64,
            "faces": 120,
            "conditioning_faces": 3,
            "interpolated": 24,
            "pairs": {"hair": 98, "hat": 1},
            "parser": "small-64",
            "networks": [],
            "ssim_share": 0.45,
            "class_iou": {"truth": {"skin": 0.9}, "model": {"skin": 0.81, "hat": 0.4}},
            "unseen": ["hat"],
            "rules": {"least_share": 0.002, "ring": 4, "timesteps_a_face": 4, "interpolated_parts": ["hair"]},
        },
        registration={
            "model": "sca-dm-synthetic-64",
            "version": "3",
            "promoted": False,
            "reasons": ["SSIM 0.5 is below the champion's."],
            "compared_with": {"version": "2", "metrics": {"ssim": 0.61, "psnr": 21.0}},
        },
        measures={
            "reconstruction": {
                "style_blind": row(0.4),
                "own_colours": row(0.5),
                "model": row(0.58),
                "ceiling": row(0.8),
            },
            "parser": {"truth": {"miou": Measure(0.8, 0.7, 0.9)}},
            "total_swap": {"model": transfer | {"lacking": Measure(0.5, 0.4, 0.6)}},
            "partial_swap": {"hair": transfer},
            "interpolation": {"parts": {"evenness": Measure(0.9, 0.8, 0.95)}},
            "noise_only": {"steps_2": steps, "steps_6": steps | {"diversity_small-64": Measure(0.5, 0.4, 0.6)}},
            "conditioning": {
                "own": {"loss": Measure(0.2, 0.1, 0.3)},
                "other_styles": {"loss": Measure(0.4, 0.3, 0.5), "rise": Measure(0.2, 0.1, 0.3)},
                "other_masks": {"loss": Measure(0.2, 0.1, 0.3), "rise": Measure(0.0, -0.1, 0.1)},
            },
            "seconds": {"steps_2": {"per_image": Measure(0.031)}, "steps_6": {"per_image": Measure(0.071)}},
        },
        steps=pd.DataFrame({"steps": [2, 6], "seconds": [0.03, 0.07], "frechet_small-64": [0.9, 0.8]}),
        losses={name: pd.DataFrame({"step": [1, 2], "loss": [0.9, 0.5]}) for name in ("training", "validation")},
        figures={name: Figure(name, "Mask and truth.", sheet) for name in ("reconstruction", "worst_ssim")},
        comparisons=Comparisons.read(ROOT / "comparisons"),
    )


class Html(HTMLParser):
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


def written(results: Results, folder: Path) -> Html:
    write_page(folder / "index.html", page(results))
    html = Html((folder / "index.html").read_text())
    assert not html.open, f"unclosed {html.open}"
    return html


def text(results: Results, folder: Path) -> str:
    return " ".join(filter(None, written(results, folder).text))


def test_the_page_says_it_all_and_loads_nothing(results: Results, tmp_path: Path) -> None:
    html = written(results, tmp_path)
    said = " ".join(filter(None, html.text))
    for part in (
        "SCA-DM on synthetic, 64 pixels",
        "Measured on 120 faces of synthetic that neither the model nor the autoencoder nor the parser has seen",
        "go 45% of the way",
        "version 3 of sca-dm-synthetic-64: not promoted",
        "SSIM 0.5 is below the champion's.",
        "0.580 0.570 to 0.600",
        "0.0123 ± 0.0011",
        "Fréchet, small-64",
        "biased upwards",
        "hair: of the way to the reference's colour it goes 90 %; its style is taken",
        "hat: not measured, as 1 pairs",
        "lacking parts seen",
        "evenness",
        "diversity, small-64",
        "0.031",
        "rises by 100 %: it uses the styles.",
        "nothing shows that it uses the mask.",
        "Mask and truth.",
        "Neither LPIPS nor",
        "The train split shows no hat",
        "<script>alert(1)</script>",
    ):
        assert part in said, part
    assert "script" not in html.tags
    assert all(address.startswith(("data:", "#")) for address in html.addresses)
    assert html.tags.count("svg") == 3, "quality against steps and seconds, and the training's losses"


def test_equal_results_write_equal_pages(results: Results, tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", page(results))
    write_page(tmp_path / "b.html", page(results))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def table_rows(results: Results, title: str = "Reconstruction") -> dict[str, Any]:
    (section,) = (section for section in page(results).sections if section.title == title)
    return dict(section.tables[0].rows)


def test_the_champion_and_rivals_stand_in_the_table_on_the_same_faces_only(results: Results, tmp_path: Path) -> None:
    assert list(table_rows(results)) == ["style_blind", "own_colours", "champion", "model", "ceiling"]
    assert table_rows(results)["champion"][1] == Cell("0.610")
    mine = Rival("SEAN", "synthetic", 64, "d" * 64, "small-64", row(0.55))
    others = [
        replace(mine, name="older", test_split="e" * 64),
        replace(mine, name="by facer", parser="farl-celebm-448"),
    ]
    with_rivals = replace(results, comparisons=replace(results.comparisons, rivals=[mine, *others]))
    shown = table_rows(with_rivals)
    assert list(shown)[2] == "SEAN" and shown["SEAN"][0].text == "38%"
    assert not {"older", "by facer"} & set(shown)
    assert "older was scored on other faces" in text(with_rivals, tmp_path)
    alone = replace(results, registration={**results.registration, "compared_with": None})
    assert "champion" not in table_rows(alone)


def test_the_papers_numbers_stand_only_where_they_belong(results: Results, tmp_path: Path) -> None:
    assert "81.78" not in text(results, tmp_path)
    project = results.params.project.model_copy(update={"data_name": "celebamask-hq", "resolution": 256})
    real = replace(results, params=results.params.model_copy(update={"project": project}))
    said = text(real, tmp_path)
    assert "81.78" in said and "by the parser small-64: not comparable with the quoted" in said


def test_of_the_baseline_it_says_what_differs_from_the_published_one(results: Results, tmp_path: Path) -> None:
    model = results.params.model.model_copy(update={"method": "sdm"})
    said = text(replace(results, params=results.params.model_copy(update={"model": model})), tmp_path)
    assert "It differs from the published one" in said and said.startswith("SDM on synthetic, 64 pixels")


def test_the_ablation_is_shown_where_there_is_one(results: Results, tmp_path: Path) -> None:
    assert results.comparisons.ablation is None or "Ablation" in text(results, tmp_path)
    found = {
        "data_name": "synthetic",
        "resolution": 64,
        "text": "Trained alike.",
        "caption": "Three trainings.",
        "columns": ["ssim", "other_eye"],
        "titles": {"ssim": "SSIM", "other_eye": "the other eye"},
        "meanings": {"hard": "the authors' code"},
        "rows": {"hard": {"ssim": [0.7, 0.6, 0.8]}, "sdm": {"ssim": [0.5, None, None]}},
    }
    said = text(replace(results, comparisons=replace(results.comparisons, ablation=found)), tmp_path)
    for part in ("Ablation", "Trained alike.", "0.700 0.600 to 0.800", "the other eye", "the authors' code"):
        assert part in said, part
    elsewhere = replace(results, comparisons=replace(results.comparisons, ablation=found | {"resolution": 256}))
    assert "Trained alike." not in text(elsewhere, tmp_path)


def test_what_the_faces_do_not_allow_is_left_out_or_said(results: Results, tmp_path: Path) -> None:
    few = {
        task: rows
        for task, rows in results.measures.items()
        if task in ("reconstruction", "parser", "noise_only", "seconds")
    }
    said = text(replace(results, measures=few, figures={}), tmp_path)
    assert "Not measured: no validation face" in said and "hat: not measured" in said


def test_no_way_from_floor_to_ceiling_is_said(results: Results, tmp_path: Path) -> None:
    rows = results.measures["reconstruction"] | {"ceiling": row(0.3)}
    assert "no way to go" in text(replace(results, measures={**results.measures, "reconstruction": rows}), tmp_path)


def test_metrics_and_intervals_join() -> None:
    found = joined({"t": {"r": {"a": 1.0, "b": 2.0}}}, {"t": {"r": {"a": [0.5, 1.5]}}})
    assert found == {"t": {"r": {"a": Measure(1.0, 0.5, 1.5), "b": Measure(2.0)}}}


def test_a_page_of_nothing_is_still_a_page(tmp_path: Path) -> None:
    empty = Page("Faces & parts <64>", "Nothing.", "none", False, [Section("Empty", tables=[Table(["a"], {})])])
    write_page(tmp_path / "index.html", empty)
    html = Html((tmp_path / "index.html").read_text())
    assert "Faces & parts <64>" in html.text and not {"svg", "img", "details"} & set(html.tags)
