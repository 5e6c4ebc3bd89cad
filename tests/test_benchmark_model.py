"""The benchmark of the model: its baselines do the published work, and all variants compute the same."""

import pytest
import tiny  # noqa: F401  (one thread)
import torch

from benchmarks.direct import Direct
from benchmarks.model import DIRECT, gflop, run, table, variants
from scadm.config import Params
from scadm.models.scadm import SCADM
from scadm.profiles import parameters

CPU = torch.device("cpu")


def published() -> Params:
    params = parameters("celebamask-hq")
    encoder = params.model.style_encoder.model_copy(update={"skip": "published"})
    return params.model_copy(update={"model": params.model.model_copy(update={"style_encoder": encoder})})


def small() -> Params:
    params = published()
    encoder = params.model.style_encoder.model_copy(update={"features": 1, "downsamplings": 3, "scales": 2})
    changes = {"channels": 32, "multipliers": (1, 2), "res_blocks": 1, "attention_at": (1, 2), "spade_channels": 16}
    unet = params.model.unet.model_copy(update=changes)
    model = params.model.model_copy(update={"style_encoder": encoder, "unet": unet})
    project = params.project.model_copy(update={"resolution": 32})
    return params.model_copy(update={"model": model, "project": project})


def test_the_baseline_does_the_published_number_of_operations() -> None:
    config = published().model
    assert gflop(config, "step", Direct, 256) == pytest.approx(338, rel=0.02)
    assert gflop(config, "step", SCADM, 256) == pytest.approx(338 - 73 - 9, rel=0.02), "without SPADE's and the tokens'"
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in Direct(config, 3).children()]
    assert sizes == pytest.approx([18, 487], rel=0.01)


@pytest.mark.parametrize("section", ["step", "train"])
def test_all_variants_compute_the_same(section: str) -> None:
    rows = run(section, small(), CPU, rounds=1, batch=2, compiled=False)
    assert [row.variant for row in rows] == [v.name for v in variants(small().model, CPU, True, False)]
    for row in rows:
        if "fp32" in row.variant:
            assert row.difference < 1e-4, row.variant
        elif section == "step":  # of gradients the worst tensor's in bf16 says little
            assert row.difference < 0.05, row.variant
        assert row.difference > 0 or row.variant == DIRECT
        assert len(row.seconds) == 1
    text = table(rows, "a machine", 100.0)
    assert text.startswith("a machine\n")
    assert all(f"| {row.variant} |" in text for row in rows)
