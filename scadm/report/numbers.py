"""How numbers are shown: with as many decimals as can mean something, and the interval in small print."""

from collections.abc import Mapping, Sequence

from scadm.evaluation.measure import Measure, Measures
from scadm.evaluation.metrics import share
from scadm.report.page import Cell, Table

MINUS = "\N{MINUS SIGN}"
NONE = Cell("\N{EN DASH}")

_TITLES = {
    "ssim": "SSIM",
    "psnr": "PSNR, dB",
    "miou": "mIoU",
    "lpips_alex": "LPIPS (Alex)",
    "lpips_vgg": "LPIPS (VGG)",
    "frechet_inception": "FID",
    "kernel_inception": "KID",
    "other_side": "other side",
    "lacking": "lacking parts seen",
    "lacking_own": "the same, own style",
    "per_image": "seconds per image",
}


def title(metric: str) -> str:
    if metric in _TITLES:
        return _TITLES[metric]
    for prefix, name in (("frechet_", "Fréchet"), ("kernel_", "kernel"), ("diversity_", "diversity")):
        if metric.startswith(prefix):
            return f"{name}, {metric.removeprefix(prefix)}"
    return metric


def number(metric: str, value: float) -> str:
    decimals = 2 if metric == "psnr" or metric.startswith("frechet_") else 4 if metric.startswith("kernel_") else 3
    return f"{value:.{decimals}f}".replace("-", MINUS)


def cell(metric: str, part: Mapping[str, Measure]) -> Cell:
    """A metric of a row, or a dash where it does not exist. Of a kernel distance, its error."""
    if metric not in part:
        return NONE
    measure = part[metric]
    detail = ""
    if measure.low is not None and measure.high is not None:
        detail = f"{number(metric, measure.low)} to {number(metric, measure.high)}"
    elif (error := part.get(f"{metric}_std")) is not None:
        detail = f"± {number(metric, error.value)}"
    return Cell(number(metric, measure.value), detail)


def columns(rows: Measures) -> list[str]:
    """All metrics of a task, in their own order; errors stand in small print of what they are of."""
    return [name for name in dict.fromkeys(n for part in rows.values() for n in part) if not name.endswith("_std")]


def table(rows: Measures, names: Sequence[str] | None = None, **options: object) -> Table:
    """Of a task; `names` are its metrics to show, or all."""
    chosen = columns(rows) if names is None else [name for name in names if any(name in part for part in rows.values())]
    cells = {row: [cell(name, part) for name in chosen] for row, part in rows.items()}
    return Table(columns=[title(name) for name in chosen], rows=cells, **options)  # type: ignore[arg-type]


def way(value: float, floor: float, ceiling: float) -> Cell:
    """The share of the way from floor to ceiling, with a bar."""
    found = share(value, floor, ceiling)
    if found is None:
        return Cell("no way to go")
    return Cell(percent(found), bar=100 * min(max(found, 0.0), 1.0))


def percent(value: float) -> str:
    return f"{value:.0%}".replace("-", MINUS)
