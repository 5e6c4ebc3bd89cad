"""The report of an evaluation: one HTML page that holds its own styles and pictures, readable anywhere."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure as Plot
from PIL import Image

from scadm.evaluation.metrics import share
from scadm.files.manifest import write_atomically
from scadm.pages import pages

FLOOR, CEILING = "style_blind", "ceiling"

ROW_MEANINGS: dict[str, str] = {
    "style_blind": "the training faces' mean colour of each part, painted into the mask: knows no face",
    "own_colours": "the face's own mean colour of each part, painted in: a strong baseline, not a floor",
    "model": "the diffusion model, from the face's styles and mask",
    "ceiling": "the real face through the autoencoder and back: as good as the latents allow",
}

_METRIC_TITLES = {"ssim": "SSIM", "psnr": "PSNR, dB", "miou": "mIoU", "accuracy": "accuracy"}

PAPER_ROWS: tuple[tuple[str, float, float, float, float], ...] = (
    ("MaskGAN", 0.51, 59.91, 76.3, 87.8),
    ("SEAN", 0.49, 20.82, 82.4, 95.0),
    ("V-INADE", 0.29, 17.49, 78.0, 93.5),
    ("SemanticStyleGAN", 0.52, 26.83, 69.8, 90.2),
    ("SCA-DM", 0.54, 16.85, 81.78, 94.67),
)
"""The paper's reconstruction table: SSIM, FID, mIoU and accuracy in per cent, on 2000 faces of CelebA-HQ at 256."""


@dataclass(frozen=True)
class Figure:
    """A picture and what it shows."""

    title: str
    caption: str
    image: Image.Image


@dataclass(frozen=True)
class Curve:
    """A quantity over training steps."""

    title: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Finding:
    """A small table, and one plain statement of what its numbers mean; without rows, why there is no table."""

    title: str
    meaning: str
    columns: Sequence[str] = ()
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{row: its cells}, as they are to be shown."""
    caption: str = ""
    """What was measured, and how."""


@dataclass(frozen=True)
class ReportData:
    """All that the page says."""

    title: str
    summary: str
    """One paragraph."""
    rows: Mapping[str, Mapping[str, float]]
    """{row: {metric: value}} of reconstruction, with the rows style_blind and ceiling; in the order to show."""
    class_iou: Mapping[str, Mapping[str, float]]
    """{row: {class: IoU}}; a class that the truth never shows is left out."""
    conditioning: Sequence[Finding]
    """Whether the model uses its conditions."""
    figures: Sequence[Figure]
    curves: Sequence[Curve]
    """Drawn in one plot; none drawn if empty."""
    lineage: Mapping[str, Mapping[str, str]]
    """{section: {name: value}}: parameters, digests, run ids, versions."""
    limits: Sequence[str]
    """What is not known, a sentence each."""
    quote_paper: bool
    """Quote the paper's table; for its own data set and resolution only."""


@dataclass(frozen=True)
class _Share:
    """The way from floor to ceiling that a row has gone, as text and as a bar's width in per cent."""

    text: str
    width: float


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to `path`, whole or not at all.

    Raises ValueError if a row is missing that the others are read against, or a number is not finite.
    """
    _require_rows(data.rows)
    environment = pages("scadm.evaluation")
    metrics = list(data.rows[CEILING])
    classes = list(dict.fromkeys(name for ious in data.class_iou.values() for name in ious))
    page = environment.get_template("report.html.j2").render(
        data=data,
        metrics=metrics,
        metric_title=_metric_title,
        number=_number,
        shares={name: _ssim_share(data.rows, name) for name in data.rows},
        meanings=ROW_MEANINGS,
        classes=classes,
        plot=Markup(_plot(data.curves)) if data.curves else None,
        paper_rows=PAPER_ROWS,
    )
    write_atomically(path, page)


def _require_rows(rows: Mapping[str, Mapping[str, float]]) -> None:
    missing = {FLOOR, CEILING} - set(rows)
    if missing:
        raise ValueError(
            f"the report has the rows {list(rows)}, expected also {sorted(missing)}: without them the other numbers "
            "have no meaning. Run `dvc repro evaluate`."
        )
    for name, row in rows.items():
        if set(row) != set(rows[CEILING]):
            raise ValueError(
                f"the row {name} has the metrics {sorted(row)}, expected {sorted(rows[CEILING])} like the ceiling: "
                "the table would have holes. Measure every row with the same parser."
            )
        for metric, value in row.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"{metric} of the row {name} is {value}, expected a finite number: the report would show a "
                    "result that is none. Look at the row's pictures, and at the training's loss."
                )


def _ssim_share(rows: Mapping[str, Mapping[str, float]], name: str) -> _Share:
    found = share(rows[name]["ssim"], rows[FLOOR]["ssim"], rows[CEILING]["ssim"])
    if found is None:
        return _Share("no way to go", 0.0)
    return _Share(f"{found:.0%}".replace("-", "\N{MINUS SIGN}"), 100 * min(max(found, 0.0), 1.0))


def _metric_title(name: str) -> str:
    if name.startswith("frechet_"):
        return f"Fréchet, {name.removeprefix('frechet_')}"
    return _METRIC_TITLES.get(name, name)


def _number(metric: str, value: float) -> str:
    """As many decimals as can mean something."""
    decimals = 2 if metric == "psnr" or metric.startswith("frechet_") else 3
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


# The page's own text colour, light or dark, stands in for this one in the finished drawing.
_INK = "#010203"
_LINES = ("#9db4d0", "#c8553d", "#3f8f6b", "#8a6bbf")


def _plot(curves: Sequence[Curve]) -> str:
    """An SVG element of all curves over training steps."""
    # Not pyplot, which keeps state; text as text, in the page's font; no random ids, so equal data draw equally.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scadm", "font.size": 11}):
        plot = Plot(figsize=(7.6, 3.0), layout="constrained")
        axes = plot.subplots()
        for curve, colour in zip(curves, cycle(_LINES), strict=False):
            few = len(curve.steps) < 40
            axes.plot(
                curve.steps,
                curve.values,
                color=colour,
                label=curve.title,
                linewidth=2 if few else 1.2,
                marker="o" if few else None,
                markersize=4,
            )
        values = [value for curve in curves for value in curve.values]
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("step", color=_INK)
        axes.tick_params(colors=_INK, which="both", length=3)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.legend(frameon=False, labelcolor=_INK)
        buffer = io.StringIO()
        plot.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :].replace(_INK, "currentColor")
