"""The gate between candidate and champion."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import FACES, metrics, scores
from hypothesis import given, settings
from hypothesis import strategies as st

from scadm import profiles
from scadm.config import GateConfig, RegistryConfig
from scadm.evaluation.evaluated import Evaluated
from scadm.evaluation.gate import Verdict, judge

CONF = Path(__file__).resolve().parents[1] / "conf"
CONFIG = RegistryConfig(gate=GateConfig(min_ssim_share=0.25, min_accuracy_share=0.9, min_transfer=0.5), tolerance=0.01)


def evaluated(
    ssim: float = 0.6, *, split: str = "same", by_face: dict[str, float] | None = None, **changes: Any
) -> Evaluated:
    faces = scores(ssim) if by_face is None else by_face
    return Evaluated(metrics(ssim, **changes), {"test_split": split}, faces)


def verdict(candidate: Evaluated, champion: Evaluated | None = None) -> Verdict:
    return judge(candidate, champion, CONFIG, version="faces/3")


def test_a_good_first_model_is_promoted_and_every_check_gives_its_values() -> None:
    found = verdict(evaluated())
    assert found.promoted and found.difference is None
    share, accuracy, transfer, champion = found.reasons
    assert "0.6000" in share and "50.0%" in share and "at least the required 25.0%" in share
    assert "0.9000 is at least 90.0% of the ceiling's 0.9500, which is 0.8550" in accuracy
    assert "0.9000 is at least the required 0.5." in transfer
    assert "no other champion" in champion


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (evaluated(ssim=0.45), "below the required 25.0%"),
        (evaluated(ssim=0.2), "is -50.0% of the way"),
        (evaluated(accuracy=0.8), "Accuracy 0.8000 is below 90.0%"),
        (evaluated(ceiling=0.4), "not above style_blind's 0.4000"),
        (evaluated(transfer=0.1), "0.1000 is below the required 0.5: the reference's style is not taken"),
    ],
)
def test_a_missed_threshold_rejects_with_both_values(candidate: Evaluated, said: str) -> None:
    found = verdict(candidate)
    assert not found.promoted
    assert any(said in reason for reason in found.reasons)
    assert len(found.reasons) == 4, "the other checks are reported too"


def test_transfer_that_was_not_measured_is_said_and_does_not_block() -> None:
    found = verdict(evaluated(transfer=None))
    assert found.promoted
    assert "not checked: the evaluation has no total_swap / model / transfer" in found.reasons[2]


def test_a_worse_model_is_rejected_by_the_interval_though_within_the_tolerance() -> None:
    """The same faces are hard for both, so that a small difference shows."""
    found = verdict(evaluated(0.595), evaluated(0.6))
    assert found.difference == pytest.approx((-0.005, -0.005, -0.005))
    assert not found.promoted
    assert found.reasons[-1] == (
        "SSIM differs from the champion's by -0.0050 (95 % interval -0.0050 to -0.0050, over the same 40 faces): worse."
    )


def test_few_faces_that_leave_it_unsure_do_not_help_beyond_the_tolerance() -> None:
    unsure = evaluated(0.58, by_face=scores(0.58, seed=1, spread=0.2))
    found = verdict(unsure, evaluated(0.6))
    assert found.difference is not None and found.difference[1] < 0 < found.difference[2]
    assert not found.promoted
    assert "below it by more than the tolerance 0.01" in found.reasons[-1]
    within = verdict(evaluated(0.595, by_face=scores(0.595, seed=1, spread=0.2)), evaluated(0.6))
    assert within.promoted and "not worse" in within.reasons[-1]


def test_an_equal_and_a_better_model_are_promoted() -> None:
    same = verdict(evaluated(), evaluated())
    assert same.promoted and same.difference == (0.0, 0.0, 0.0)
    better = verdict(evaluated(0.65), evaluated())
    assert better.promoted and "by +0.0500" in better.reasons[-1] and "better" in better.reasons[-1]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.55, 0.7), st.integers(0, 99))
def test_promotion_is_what_mean_and_interval_say_in_whatever_order_the_faces_come(ssim: float, seed: int) -> None:
    by_face = scores(ssim, seed=seed, spread=0.03)
    found = verdict(evaluated(ssim, by_face=by_face), evaluated(0.6))
    assert found.difference is not None
    mean, _, high = found.difference
    assert mean == pytest.approx(np.mean(list(by_face.values())) - 0.6)
    assert found.promoted == (high >= 0 and mean >= -0.01)
    turned = dict(reversed(by_face.items()))
    assert verdict(evaluated(ssim, by_face=turned), evaluated(0.6)) == found


def test_another_test_split_is_not_compared_and_what_to_do_is_said() -> None:
    found = verdict(evaluated(0.79), evaluated(0.5, split="other"))
    assert not found.promoted and found.difference is None
    reason = found.reasons[-1]
    assert "(digest other, here same)" in reason
    assert "`dvc exp run -S training.init_from=models:/faces@champion -S training.steps=0`" in reason
    assert "`scadm promote faces/3 --force`" in reason


def test_other_faces_on_an_equal_split_are_not_compared() -> None:
    found = verdict(evaluated(0.7), evaluated(by_face=scores(0.6, faces=FACES[:-2])))
    assert not found.promoted and found.difference is None
    assert "has 38 faces and this one's 40, of which 38 are the same" in found.reasons[-1]


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"ssim": float("nan")}, "reconstruction / model / ssim"), ({"transfer": float("inf")}, "total_swap / model")],
)
def test_what_is_not_a_number_is_not_judged(changes: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.* is (nan|inf), expected a finite number"):
        verdict(evaluated(**changes))  # type: ignore[arg-type]


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(ValueError, match="no 'reconstruction' for reconstruction / model / ssim"):
        verdict(Evaluated({}, {}, {}))


@pytest.mark.parametrize("name", ["quickstart", "mini", "celebamask-hq"])
def test_no_profile_of_real_use_promotes_a_model_that_ignores_the_reference(name: str) -> None:
    config = profiles.parameters(name, CONF).registry
    blind = judge(evaluated(ssim=0.79, accuracy=0.95, transfer=0.0), None, config, version="faces/3")
    assert not blind.promoted
