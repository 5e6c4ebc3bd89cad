"""Whether the conditioning is used, in two small tables and a sentence on each. What is not shown is said to be so."""

from scadm.evaluation.conditioning import LEAST_FACES, TURNS
from scadm.evaluation.editing import LEAST_PAIRS, LEAST_SHARE, PART, RING
from scadm.evaluation.report import Finding
from scadm.evaluation.tasks import Measured


def findings(measured: Measured) -> list[Finding]:
    """What the report says of swapped parts and of the denoising loss under wrong conditions."""
    swap = measured.metrics.get(f"swap_{PART}", {}).get("model", {})
    return [_swap(swap, len(measured.swap)), _conditioning(measured.metrics.get("conditioning", {}), measured)]


def _swap(found: dict[str, float], pairs: int) -> Finding:
    title = f"The {PART} of another face"
    if not found:
        return Finding(
            title,
            f"Not measured: there are {pairs} pairs of test faces that show {PART}, and {LEAST_PAIRS} are needed. A "
            f"face shows it on {LEAST_SHARE:.0%} of its pixels or more, some of them further than {RING} pixels from "
            "its border.",
        )
    cells = [_cell(found, name) for name in ("transfer", "arrival", "leakage")]
    return Finding(
        title,
        f"{_transfer(found)} {_leakage(found)}",
        columns=("transfer", "arrival", "leakage"),
        rows={"model": cells},
        caption=f"{pairs} pairs of test faces: the reconstruction, and the same with the {PART}'s style of the next "
        f"face. Transfer: how far the {PART}'s mean colour went along the way to the reference's, 1 being all of it. "
        "Arrival: 1 less what is then left of the distance, so that it sees colour off the way too. Leakage: mean "
        f"change outside the {PART} over that inside; {RING} pixels on each side of its border are left out. In "
        "brackets, 95 % bootstrap intervals over the pairs.",
    )


def _transfer(found: dict[str, float]) -> str:
    if "transfer" not in found:
        return f"The {PART} already has its reference's colour in every pair, so nothing can be said of its style."
    way = f"Of the way to the reference's colour the {PART} goes {_percent(found['transfer'])}"
    if found["transfer_low"] > 0:
        return f"{way}: its style is taken from the reference."
    if found["transfer_high"] < 0:
        return f"{way}: it moves away from the reference, whose style it does not take."
    return f"{way}, and the interval includes 0: it is not shown that its style is taken from the reference."


def _leakage(found: dict[str, float]) -> str:
    if "leakage" not in found:
        return f"No {PART} changed at all, so there is no leakage to speak of."
    change = f"Elsewhere the picture changes {_percent(found['leakage'])} as much as there"
    if found["leakage_high"] < 1:
        return f"{change}."
    return f"{change}, and the interval reaches 1: it is not shown that the change keeps to the {PART}."


def _conditioning(rows: dict[str, dict[str, float]], measured: Measured) -> Finding:
    title = "The denoising loss under wrong conditions"
    if not rows:
        return Finding(
            title,
            f"Not measured: the validation split has fewer than {LEAST_FACES} faces, so that none has another one to "
            "take conditions from.",
        )
    own = rows["own"]["loss"]
    return Finding(
        title,
        " ".join(_rise(rows[row], own, what) for row, what in (("other_styles", "styles"), ("other_masks", "mask"))),
        columns=("loss", "rise"),
        rows={
            row: [f"{found['loss']:.4f}", _cell(found, "rise", 4) if "rise" in found else ""]
            for row, found in rows.items()
        },
        caption=f"{len(measured.losses)} validation faces, {TURNS} timesteps of each, with the same noise in all rows: "
        "under its own style and mask, under the next face's style codes, and under the next face's mask. Rise: the "
        "mean difference to the own, face by face. In brackets, ± 1.96 standard errors about it.",
    )


def _rise(found: dict[str, float], own: float, what: str) -> str:
    given = f"Given another face's {what}, the model's loss"
    if found["rise_low"] > 0:
        return f"{given} rises by {_percent(found['rise'] / own)}: it uses the {what}."
    if found["rise_high"] < 0:
        return f"{given} falls by {_percent(-found['rise'] / own)}: it uses the {what}, and not as it should."
    return f"{given} is not shown to rise, as the interval includes 0: nothing shows that it uses the {what}."


def _cell(found: dict[str, float], name: str, decimals: int = 3) -> str:
    """A value with its interval, where it has one."""
    if name not in found:
        return "does not exist"
    value, *ends = (
        f"{found[key]:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
        for key in (name, f"{name}_low", f"{name}_high")
        if key in found
    )
    return f"{value} ({' to '.join(ends)})" if ends else value


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %".replace("-", "\N{MINUS SIGN}")
