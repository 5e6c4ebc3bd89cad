"""What the report says of numbers: good, bad, and not shown."""

import pytest

from scadm.evaluation.measure import Measure
from scadm.report import findings


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (Measure(0.7, 0.6, 0.8), "goes 70 %; its style is taken from the reference."),
        (Measure(0.1, -0.1, 0.3), "the interval includes 0: it is not shown that its style is taken"),
        (Measure(-0.5, -0.6, -0.4), "goes \N{MINUS SIGN}50 %; it moves away from the reference"),
        (None, "nothing can be said of its style"),
    ],
)
def test_transfer(measure: Measure | None, said: str) -> None:
    assert said in findings.transfer("hair", {} if measure is None else {"transfer": measure})


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (Measure(0.05, 0.04, 0.06), "changes 5 % as much as there."),
        (Measure(0.9, 0.7, 1.2), "the interval reaches 1: it is not shown that the change keeps to it"),
        (None, "Nothing changed at all"),
    ],
)
def test_leakage(measure: Measure | None, said: str) -> None:
    assert said in findings.leakage({} if measure is None else {"leakage": measure})


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (Measure(0.4, 0.3, 0.5), "rises by 200 %: it uses the mask."),
        (Measure(0.0, -0.1, 0.1), "nothing shows that it uses the mask"),
        (Measure(-0.1, -0.2, -0.05), "falls by 50 %: it uses the mask, and not as it should"),
    ],
)
def test_rise(measure: Measure, said: str) -> None:
    assert said in findings.rise({"rise": measure}, 0.2, "mask")
