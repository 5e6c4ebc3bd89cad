"""What the numbers mean, a plain sentence each. What is not shown is said to be so."""

from collections.abc import Mapping

from scadm.evaluation.measure import Measure
from scadm.report.numbers import MINUS

Part = Mapping[str, Measure]
"""{metric: measure} of a row."""


def transfer(name: str, part: Part) -> str:
    """Is the style of the parts `name` taken from the reference?"""
    if "transfer" not in part:
        return f"{name}: the colours are the reference's in every pair already, so nothing can be said of its style."
    measure = part["transfer"]
    low, high = _ends(measure)
    way = f"{name}: of the way to the reference's colour it goes {_percent(measure.value)}"
    if low > 0:
        return f"{way}; its style is taken from the reference."
    if high < 0:
        return f"{way}; it moves away from the reference, whose style it does not take."
    return f"{way}, and the interval includes 0: it is not shown that its style is taken from the reference."


def leakage(part: Part) -> str:
    """Does the change keep to the parts?"""
    if "leakage" not in part:
        return "Nothing changed at all, so there is no leakage to speak of."
    change = f"Elsewhere the picture changes {_percent(part['leakage'].value)} as much as there"
    if _ends(part["leakage"])[1] < 1:
        return f"{change}."
    return f"{change}, and the interval reaches 1: it is not shown that the change keeps to it."


def rise(part: Part, own: float, what: str) -> str:
    """Does the denoising loss rise under a wrong condition?"""
    given = f"Given another face's {what}, the model's loss"
    measure = part["rise"]
    low, high = _ends(measure)
    if low > 0:
        return f"{given} rises by {_percent(measure.value / own)}: it uses the {what}."
    if high < 0:
        return f"{given} falls by {_percent(-measure.value / own)}: it uses the {what}, and not as it should."
    return f"{given} is not shown to rise, as the interval includes 0: nothing shows that it uses the {what}."


def _ends(measure: Measure) -> tuple[float, float]:
    assert measure.low is not None and measure.high is not None
    return measure.low, measure.high


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %".replace("-", MINUS)
