"""What the report says of the conditioning: good, bad, and not measured."""

from typing import Any

import numpy as np
import pytest

from scadm.evaluation.conditioning import LossSheet
from scadm.evaluation.editing import NO_PAIRS, SwapSheet
from scadm.evaluation.findings import findings
from scadm.evaluation.report import Finding
from scadm.evaluation.tasks import Measured

COUNT = 20
NO_LOSSES = LossSheet(np.empty(0, np.int64), np.empty((0, 3)))


def swap(transfer: float, leakage: float, spread: float = 0.05, change: float = 0.2) -> SwapSheet:
    rng = np.random.default_rng(0)
    way = rng.uniform(0.2, 0.5, (COUNT, 3))
    went = way * rng.normal(transfer, spread, (COUNT, 1))
    outside = change * rng.normal(leakage, spread, COUNT).clip(0)
    return SwapSheet(np.arange(COUNT), np.full(COUNT, change), outside, went, way)


def losses(styles: float, masks: float, spread: float = 0.02) -> LossSheet:
    rng = np.random.default_rng(0)
    own = rng.uniform(0.2, 0.6, COUNT)
    columns = [own, *(own + rng.normal(rise, spread, COUNT) for rise in (styles, masks))]
    return LossSheet(np.arange(COUNT), np.stack(columns, axis=1))


def said(pairs: SwapSheet = NO_PAIRS, faces: LossSheet = NO_LOSSES) -> list[Finding]:
    return findings(Measured({}, pairs, faces))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            swap(0.7, 0.1),
            ["its style is taken from the reference. Elsewhere the picture changes ", " as much as there."],
        ),
        (swap(0.0, 0.1, 0.5), ["and the interval includes 0: it is not shown that its style is taken"]),
        (swap(-0.5, 0.1), ["\N{MINUS SIGN}", "moves away from the reference"]),
        (swap(0.7, 1.0), ["the interval reaches 1: it is not shown that the change keeps to the hair"]),
        (swap(0.7, 0.0, change=0.0), ["No hair changed at all"]),
    ],
)
def test_swapped_hair(pairs: SwapSheet, expected: list[str]) -> None:
    found, _ = said(pairs)
    for part in expected:
        assert part in found.meaning
    (cells,) = found.rows.values()
    assert len(cells) == len(found.columns) == 3
    assert f"{COUNT} pairs" in found.caption
    assert (cells[2] == "does not exist") == (not pairs.inside.any())


@pytest.mark.parametrize(
    ("faces", "expected"),
    [
        (losses(0.2, 0.1), ["styles, the model's loss rises by", "it uses the styles", "it uses the mask."]),
        (losses(0.0, 0.1), ["nothing shows that it uses the styles", "it uses the mask."]),
        (losses(0.2, 0.0, 0.0), ["it uses the styles", "nothing shows that it uses the mask"]),
        (losses(0.2, -0.1), ["it uses the styles", "mask, the model's loss falls by", "not as it should"]),
    ],
)
def test_wrong_conditions(faces: LossSheet, expected: list[str]) -> None:
    _, found = said(faces=faces)
    for part in expected:
        assert part in found.meaning
    assert list(found.rows) == ["own", "other_styles", "other_masks"]
    assert all(len(cells) == len(found.columns) for cells in found.rows.values())
    assert found.rows["own"][1] == "" and " to " in found.rows["other_styles"][1]


def test_what_was_not_measured_is_said() -> None:
    one: Any = SwapSheet(*(column[:1] for column in vars(swap(0.7, 0.1)).values()))
    for pairs, number in ((NO_PAIRS, 0), (one, 1)):
        hair, conditions = said(pairs)
        assert hair.meaning.startswith(f"Not measured: there are {number} pairs of test faces that show hair, ")
        assert conditions.meaning.startswith("Not measured: the validation split has fewer than 2 faces")
        assert not hair.rows and not conditions.rows
