"""What a run says of itself meanwhile."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from scadm.training import validation
from scadm.training.job import Worker
from scadm.training.validation import Validation


def test_the_autoencoder_is_read_once_for_all_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    load = validation.load_first_stage

    def counted(folder: Path, *where: Any) -> Any:
        read.append(folder)
        return load(folder, *where)

    monkeypatch.setattr(validation, "load_first_stage", counted)
    job = tiny.training_job(tmp_path)
    found = Validation(job, Worker(0, 1, torch.device("cpu")), print)
    assert not read, "a rank that shows no grid needs none"
    first = found.synthesiser(tiny.model().state_dict())
    assert found.synthesiser(tiny.model().state_dict()).first_stage is first.first_stage
    assert read == [Path(job.autoencoder)]
