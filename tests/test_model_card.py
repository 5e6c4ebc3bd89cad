"""The card of a registered model."""

from pathlib import Path

import pytest
from evaluations import metrics, scores

from scadm import model_card, profiles
from scadm.config import Params
from scadm.evaluation.evaluated import Evaluated

CONF = Path(__file__).resolve().parents[1] / "conf"
FACTS = {"run_key": "ab" * 8, "weights_sha256": "cd" * 32, "test_split": "ef" * 32, "faces": 120, "parser": "small-64"}


@pytest.fixture(scope="module")
def params() -> Params:
    return profiles.parameters("quickstart", CONF)


def changed(params: Params, section: str, **values: object) -> Params:
    part = getattr(params, section).model_copy(update=values)
    return params.model_copy(update={section: part})


def card(params: Params, **facts: object) -> str:
    return model_card.write(params, Evaluated(metrics(), FACTS | facts, scores(0.6)))


def test_it_says_what_the_model_is_and_how_it_was_made(params: Params) -> None:
    text = card(params)
    assert text.startswith("# sca-dm-synthetic-64\nSCA-DM: ")
    assert f"At 64 pixels, trained for {params.training.steps} steps of {params.training.batch_size} faces." in text
    assert "free of any person's likeness" in text
    assert "references are ignored" in card(changed(params, "model", method="sdm"))
    assert "non-commercial research only" in card(changed(params, "data", source="celebamask-hq"))
    assert "terms under which they were collected" in card(changed(params, "data", source="folder"))


@pytest.mark.parametrize(
    ("steps", "said"), [(0, "64 pixels, the weights of"), (7, "64 pixels, trained for 7 steps of 8 faces from the")]
)
def test_it_says_which_weights_it_started_from(params: Params, steps: int, said: str) -> None:
    """Made of CelebAMask-HQ, they are not free because the faces of this training are drawn."""
    text = card(changed(params, "training", init_from="imports/abc", steps=steps))
    assert said in text and "of imports/abc, whose terms hold for this model too." in text


def test_it_has_the_numbers_with_their_rows_and_what_limits_them(params: Params) -> None:
    text = card(params)
    assert "On 120 test faces, read by the parser small-64:" in text
    assert "| reconstruction | ssim | psnr | miou | accuracy |" in text
    assert "| model | 0.600 | 20.000 | 0.500 | 0.900 |" in text and "| style_blind | 0.400 |" in text
    assert "| whole face | 0.900 | 0.050 |" in text
    assert f"with seed {params.training.seed}" in text
    without = model_card.write(params, Evaluated(metrics(transfer=None), FACTS, scores(0.6)))
    assert "Transfer" not in without


def test_swapped_parts_stand_below_the_whole_face(params: Params) -> None:
    rows = metrics() | {"partial_swap": {"hair": {"transfer": 1.02, "leakage": 0.06}, "lips": {"arrival": 0.5}}}
    text = model_card.write(params, Evaluated(rows, FACTS, {}))
    assert "| whole face | 0.900 | 0.050 |\n| hair | 1.020 | 0.060 |" in text and "| lips |" not in text


def test_it_says_what_the_model_is_not_for_and_where_it_comes_from(params: Params) -> None:
    text = card(params, lineage={"git_commit": "0" * 40, "data_manifest": "1" * 64})
    for word in ("impersonation", "identification", "represent neither"):
        assert word in text
    for value in (FACTS["run_key"], FACTS["weights_sha256"], "0" * 40, "1" * 64):
        assert f"`{value}`" in text
    assert 'load_model("models:/sca-dm-synthetic-64@champion")' in text


@pytest.mark.parametrize("name", ["quickstart", "mini", "celebamask-hq"])
def test_it_fits_into_a_version_s_description(name: str) -> None:
    lineage = dict.fromkeys(("git_commit", "git_dirty", "data_manifest", "dvc_lock", "autoencoder"), "0" * 64)
    text = card(profiles.parameters(name, CONF), mlflow_run="9" * 32, lineage=lineage)
    assert len(text) < 5000
