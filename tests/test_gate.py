"""The gate between candidate and champion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadm.config import GateConfig, RegistryConfig
from scadm.evaluation.gate import Metrics, Verdict, judge

CONFIG = RegistryConfig(gate=GateConfig(min_ssim_share=0.25, min_accuracy_share=0.9), tolerance=0.01)


def metrics(ssim: float = 0.6, accuracy: float = 0.9, ceiling: float = 0.8) -> Metrics:
    return {
        "reconstruction": {
            "style_blind": {"ssim": 0.4, "accuracy": 0.5},
            "model": {"ssim": ssim, "accuracy": accuracy},
            "ceiling": {"ssim": ceiling, "accuracy": 0.95},
        }
    }


def verdict(candidate: Metrics, champion: Metrics | None = None, champion_split: str | None = "same") -> Verdict:
    return judge(candidate, champion, CONFIG, split_digest="same", champion_split_digest=champion_split)


def test_a_good_first_model_is_promoted_and_every_check_gives_its_values() -> None:
    found = verdict(metrics(), champion_split=None)
    assert found.promoted
    share, accuracy, champion = found.reasons
    assert "0.6000" in share and "50.0%" in share and "at least the required 25.0%" in share
    assert "0.9000 is at least 90.0% of the ceiling's 0.9500, which is 0.8550" in accuracy
    assert "no champion yet" in champion


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (metrics(ssim=0.45), "below the required 25.0%"),
        (metrics(ssim=0.2), "is -50.0% of the way"),
        (metrics(accuracy=0.8), "Accuracy 0.8000 is below 90.0%"),
        (metrics(ceiling=0.4), "not above style_blind's 0.4000"),
    ],
)
def test_a_missed_threshold_rejects_with_both_values(candidate: Metrics, said: str) -> None:
    found = verdict(candidate)
    assert not found.promoted
    assert any(said in reason for reason in found.reasons)
    assert len(found.reasons) == 3, "the other checks are reported too"


@given(st.floats(0.55, 1), st.floats(0.55, 1))
def test_a_candidate_may_lie_below_the_champion_by_the_tolerance(ssim: float, best: float) -> None:
    found = verdict(metrics(ssim=ssim), metrics(ssim=best))
    assert found.promoted == (ssim >= best - 0.01)
    assert f"{ssim:.4f}" in found.reasons[-1] and f"{best:.4f}" in found.reasons[-1]


def test_another_test_split_is_not_compared() -> None:
    found = verdict(metrics(ssim=0.79), metrics(ssim=0.5), champion_split="other")
    assert not found.promoted
    assert "(digest other, here same)" in found.reasons[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_judged(value: float) -> None:
    with pytest.raises(ValueError, match="reconstruction / model / ssim is"):
        verdict(metrics(ssim=value))


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(ValueError, match="no 'reconstruction' for reconstruction / model / ssim"):
        verdict({})
