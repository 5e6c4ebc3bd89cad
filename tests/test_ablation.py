"""The ablation's table, from metrics of experiments; the experiments themselves are `make ablation`."""

from typing import Any

import pytest
import yaml
from scipy import stats

from benchmarks import ablation
from scadm import profiles
from scadm.config import ProjectConfig, validate
from scadm.report.comparisons import Comparisons


def metrics(ssim: float, eye: float | None) -> dict[str, Any]:
    swaps = {} if eye is None else {"left_eye": {"other_side": eye, "transfer": 0.5, "leakage": 0.1}}
    return {"reconstruction": {"model": {"ssim": ssim, "psnr": 20.0, "miou": 0.6}}, "partial_swap": swaps}


FOUND = {
    "hard": {"0": metrics(0.70, 0.1), "1": metrics(0.72, 0.2), "2": metrics(0.74, 0.3)},
    "sdm": {"0": metrics(0.50, 0.1), "1": metrics(0.52, None)},
    "sdm-pixels": {"0": metrics(0.4, None)},
}


def summary() -> dict[str, Any]:
    return ablation.summary(FOUND, 580, ProjectConfig(data_name="toys", seed=0, resolution=16))


def test_means_and_intervals_are_over_trainings() -> None:
    rows = summary()["rows"]
    value, low, high = rows["hard"]["ssim"]
    theirs = stats.ttest_1samp([0.70, 0.72, 0.74], 0).confidence_interval(0.95)
    assert (value, low, high) == pytest.approx((0.72, theirs.low, theirs.high))
    assert rows["sdm-pixels"]["ssim"] == [0.4, None, None], "one training has no interval"


def test_what_does_not_exist_in_all_trainings_is_no_mean() -> None:
    rows = summary()["rows"]
    assert "other_eye" in rows["hard"] and "other_eye" not in rows["sdm"]
    lines = ablation.table(summary()).splitlines()
    assert (
        lines[0].startswith("| | SSIM | PSNR, dB |") and lines[3].startswith("| sdm | 0.510 (") and "| - |" in lines[3]
    )


def test_every_form_is_a_valid_configuration() -> None:
    base = yaml.safe_load(profiles.render("quickstart"))
    for changes in ablation.FORMS.values():
        for change in (*changes, *ablation.SHORT):
            key, _, value = change.partition("=")
            *sections, name = key.split(".")
            part = base
            for section in sections:
                part = part[section]
            assert name in part, f"{key} is no parameter"
            part[name] = yaml.safe_load(value)
        validate(base, "an ablation")


def test_the_report_reads_what_was_found(tmp_path: Any) -> None:
    import json

    (tmp_path / "quoted.json").write_text("{}")
    (tmp_path / "ablation.json").write_text(json.dumps(summary()))
    found = Comparisons.read(tmp_path).ablation
    assert found is not None and set(found["meanings"]) == set(FOUND)
