"""Curves as SVG elements that take the page's own colours and font."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """A quantity over another one."""

    title: str
    x: Sequence[float]
    y: Sequence[float]


# The page's own text colour, light or dark, stands in for this one in the finished drawing.
_INK = "#010203"
_LINES = ("#9db4d0", "#c8553d", "#3f8f6b", "#8a6bbf")


def plot(curves: Sequence[Curve], across: str, up: str = "") -> str:
    """An SVG element of all curves over what `across` names."""
    # Not pyplot, which keeps state; text as text, in the page's font; no random ids, so equal data draw equally.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scadm", "font.size": 11}):
        figure = Figure(figsize=(7.6, 3.0), layout="constrained")
        axes = figure.subplots()
        for curve, colour in zip(curves, cycle(_LINES), strict=False):
            few = len(curve.x) < 40
            axes.plot(
                curve.x,
                curve.y,
                color=colour,
                label=curve.title,
                linewidth=2 if few else 1.2,
                marker="o" if few else None,
                markersize=4,
            )
        values = [value for curve in curves for value in curve.y]
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
        axes.set_xlabel(across, color=_INK)
        axes.set_ylabel(up, color=_INK)
        axes.tick_params(colors=_INK, which="both", length=3)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.legend(frameon=False, labelcolor=_INK)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :].replace(_INK, "currentColor")
