"""A run folder that is named by hand holds one training, of one set of parameters."""

from pathlib import Path

import pytest
from projects import ROOT

from scadm.config import load_params
from scadm.files.manifest import Manifest
from scadm.training.same import require_same_training


def test_another_training_in_the_same_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    data = Manifest(stage="latents")
    for _ in range(2):  # new, and resumed
        require_same_training(tmp_path, params, data, None)
    rate = params.training.learning_rate
    other = params.model_copy(update={"training": params.training.model_copy(update={"learning_rate": 0.5})})
    with pytest.raises(
        ValueError, match=rf"{tmp_path} holds another training: training\.learning_rate {rate}, now 0\.5\. .*folder"
    ):
        require_same_training(tmp_path, other, data, None)
    with pytest.raises(ValueError, match=r"initial weights None, now /weights; shards \w+, now \w+"):
        require_same_training(tmp_path, params, Manifest(stage="latents", resolution=8), "/weights")


def test_what_changes_no_result_may_change(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    require_same_training(tmp_path, params, Manifest(stage="latents"), None)
    often = params.model_copy(update={"monitoring": params.monitoring.model_copy(update={"log_every": 1})})
    require_same_training(tmp_path, often, Manifest(stage="latents"), None)
