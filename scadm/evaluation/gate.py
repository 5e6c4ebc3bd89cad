"""Whether a candidate becomes champion: thresholds, and not worse than the champion on the same test split."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scadm.config import RegistryConfig
from scadm.evaluation.metrics import share

Metrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""{task: {row: {metric: value}}}, as in reports/metrics.json."""


@dataclass(frozen=True)
class Verdict:
    """The decision, and one sentence with both values for every check, met or not."""

    promoted: bool
    reasons: tuple[str, ...]


def judge(
    metrics: Metrics,
    champion_metrics: Metrics | None,
    config: RegistryConfig,
    *,
    split_digest: str,
    champion_split_digest: str | None,
) -> Verdict:
    """Judge a candidate by its reconstruction metrics; `champion_metrics` is None where there is no champion.

    Raises ValueError if a needed metric is missing or not finite, in either model's metrics.
    """
    checks = [
        _ssim_share(metrics, config.gate.min_ssim_share),
        _accuracy(metrics, config.gate.min_accuracy_share),
    ]
    if champion_metrics is None:
        checks.append((True, "There is no champion yet to compare with."))
    elif champion_split_digest != split_digest:
        reason = (
            f"The champion was measured on another test split (digest {champion_split_digest}, here {split_digest}), "
            "so the two cannot be compared. Evaluate the champion on this split, or remove the alias champion to "
            "start anew."
        )
        checks.append((False, reason))
    else:
        checks.append(_against_champion(metrics, champion_metrics, config.tolerance))
    return Verdict(all(met for met, _ in checks), tuple(reason for _, reason in checks))


def _ssim_share(metrics: Metrics, least: float) -> tuple[bool, str]:
    value, floor, ceiling = (_metric(metrics, row, "ssim") for row in ("model", "style_blind", "ceiling"))
    found = share(value, floor, ceiling)
    if found is None:
        return False, (
            f"The ceiling's SSIM {ceiling:.4f} is not above style_blind's {floor:.4f}, so the model's {value:.4f} has "
            "no share of the way between them: the autoencoder is too weak to judge the model by. Train it longer."
        )
    met = found >= least
    return met, (
        f"SSIM {value:.4f} is {found:.1%} of the way from style_blind ({floor:.4f}) to the ceiling ({ceiling:.4f}), "
        f"{_against(met)} the required {least:.1%}."
    )


def _accuracy(metrics: Metrics, least: float) -> tuple[bool, str]:
    value, ceiling = (_metric(metrics, row, "accuracy") for row in ("model", "ceiling"))
    met = value >= least * ceiling
    return met, (
        f"Accuracy {value:.4f} is {_against(met)} {least:.1%} of the ceiling's {ceiling:.4f}, which is "
        f"{least * ceiling:.4f}."
    )


def _against_champion(metrics: Metrics, champion: Metrics, tolerance: float) -> tuple[bool, str]:
    value, best = _metric(metrics, "model", "ssim"), _metric(champion, "model", "ssim")
    met = value >= best - tolerance
    return met, (
        f"SSIM {value:.4f} is {_against(met)} the champion's {best:.4f} less the tolerance {tolerance:g}, on the same "
        "test split."
    )


def _against(met: bool) -> str:
    return "at least" if met else "below"


def _metric(metrics: Metrics, row: str, name: str) -> float:
    try:
        value = metrics["reconstruction"][row][name]
    except KeyError as missing:
        raise ValueError(
            f"the metrics have no {missing} for reconstruction / {row} / {name}, expected a number: the model cannot "
            "be judged without it. Run `dvc repro evaluate`."
        ) from None
    if not math.isfinite(value):
        raise ValueError(
            f"reconstruction / {row} / {name} is {value}, expected a finite number: the model cannot be judged by it. "
            "Run `dvc repro evaluate`, and look at the training's loss if it stays."
        )
    return value
