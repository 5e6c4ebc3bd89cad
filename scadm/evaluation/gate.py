"""Whether a candidate becomes champion: thresholds, and not worse than the champion on the same faces."""

import math
from dataclasses import dataclass

import numpy as np

from scadm.config import RegistryConfig
from scadm.evaluation.bootstrap import interval
from scadm.evaluation.evaluated import MODEL, Evaluated, Metrics
from scadm.evaluation.metrics import share

SWAP, TRANSFER = "total_swap", "transfer"


@dataclass(frozen=True)
class Verdict:
    """The decision, and one sentence with both values for every check, met or not."""

    promoted: bool
    reasons: tuple[str, ...]
    difference: tuple[float, float, float] | None = None
    """Mean SSIM over the champion's and the bounds of its 95 % interval; None where they were not compared."""


def judge(candidate: Evaluated, champion: Evaluated | None, config: RegistryConfig, *, version: str) -> Verdict:
    """Judge a candidate, NAME/VERSION, by its evaluation; `champion` is None where there is none to compare with.

    Raises ValueError if a needed metric is missing or not finite.
    """
    gate, metrics = config.gate, candidate.metrics
    checks = [
        _ssim_share(metrics, gate.min_ssim_share),
        _accuracy(metrics, gate.min_accuracy_share),
        _transfer(metrics, gate.min_transfer),
    ]
    difference = None
    if champion is None:
        checks.append((True, "There is no other champion to compare with."))
    elif (reason := _apart(candidate, champion, version)) is not None:
        checks.append((False, reason))
    else:
        difference = ssim_difference(candidate, champion)
        checks.append(_against_champion(difference, config.tolerance, len(candidate.ssim)))
    return Verdict(all(met for met, _ in checks), tuple(reason for _, reason in checks), difference)


def ssim_difference(candidate: Evaluated, champion: Evaluated) -> tuple[float, float, float]:
    """Mean and 95 % interval of candidate - champion over the same faces, in order of their ids."""
    change = np.array([candidate.ssim[face] - champion.ssim[face] for face in sorted(candidate.ssim)])  # (N,)
    return float(change.mean()), *interval(change)


def _ssim_share(metrics: Metrics, least: float) -> tuple[bool, str]:
    value, floor, ceiling = (_metric(metrics, row, "ssim") for row in (MODEL, "style_blind", "ceiling"))
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
    value, ceiling = (_metric(metrics, row, "accuracy") for row in (MODEL, "ceiling"))
    met = value >= least * ceiling
    return met, (
        f"Accuracy {value:.4f} is {_against(met)} {least:.1%} of the ceiling's {ceiling:.4f}, which is "
        f"{least * ceiling:.4f}."
    )


def _transfer(metrics: Metrics, least: float) -> tuple[bool, str]:
    if TRANSFER not in metrics.get(SWAP, {}).get(MODEL, {}):
        return True, (
            f"Transfer of style is not checked: the evaluation has no {SWAP} / {MODEL} / {TRANSFER}, as where no two "
            "test faces can lend each other their style."
        )
    value = _metric(metrics, MODEL, TRANSFER, SWAP)
    met = value >= least
    taken = "" if met else ": the reference's style is not taken"
    return met, f"Transfer of the whole style {value:.4f} is {_against(met)} the required {least:g}{taken}."


def _apart(candidate: Evaluated, champion: Evaluated, version: str) -> str | None:
    """Why the two cannot be compared, with what to do about it; None where they can."""
    name = version.rpartition("/")[0]
    remedy = (
        "so the two cannot be compared. Evaluate the champion here (`dvc exp run -S "
        f"training.init_from=models:/{name}@champion -S training.steps=0`) and make what that registers the champion "
        f"(`scadm promote --force`); then `scadm promote {version}` judges this one. Or start anew with it: `scadm "
        f"promote {version} --force`."
    )
    if champion.test_split != candidate.test_split:
        return (
            f"The champion was measured on another test split (digest {champion.test_split}, here "
            f"{candidate.test_split}), {remedy}"
        )
    if champion.ssim.keys() != candidate.ssim.keys():
        both = len(champion.ssim.keys() & candidate.ssim.keys())
        return (
            f"The champion's faces.csv has {len(champion.ssim)} faces and this one's {len(candidate.ssim)}, of which "
            f"{both} are the same, although the test split is (digest {candidate.test_split}): one of the two files is "
            f"not whole, {remedy}"
        )
    return None


def _against_champion(difference: tuple[float, float, float], tolerance: float, faces: int) -> tuple[bool, str]:
    mean, low, high = difference
    found = (
        f"SSIM differs from the champion's by {mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, over the same "
        f"{faces} faces)"
    )
    if high < 0:
        return False, f"{found}: worse."
    if mean < -tolerance:
        return False, f"{found}: below it by more than the tolerance {tolerance:g}, if few faces leave it unsure."
    return True, f"{found}: {'better' if low > 0 else 'not worse'}."


def _against(met: bool) -> str:
    return "at least" if met else "below"


def _metric(metrics: Metrics, row: str, name: str, task: str = "reconstruction") -> float:
    try:
        value = metrics[task][row][name]
    except KeyError as missing:
        raise ValueError(
            f"the metrics have no {missing} for {task} / {row} / {name}, expected a number: the model cannot "
            "be judged without it. Run `dvc repro evaluate`."
        ) from None
    if not math.isfinite(value):
        raise ValueError(
            f"{task} / {row} / {name} is {value}, expected a finite number: the model cannot be judged by it. "
            "Run `dvc repro evaluate`, and look at the training's loss if it stays."
        )
    return value
