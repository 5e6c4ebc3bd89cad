"""The evaluation's tasks: who measures what, and that nothing depends on how they were cut."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from scadm.config import ParserConfig
from scadm.data.shards import Sample
from scadm.evaluation import tasks
from scadm.evaluation.parsers import SmallParser
from scadm.evaluation.tasks import Counts, Examiner, Measured
from scadm.faces import CLASS_ID
from scadm.models.parser import FaceParser
from scadm.synthesis import Synthesiser

COUNTS = Counts(test=5, validation=3)


def faces(hair: Sequence[int]) -> list[Sample]:
    """With so many columns of hair, and skin beside it."""
    samples = tiny.samples(len(hair), seed=2)
    for sample, columns in zip(samples, hair, strict=True):
        sample.labels[:] = CLASS_ID["skin"]
        sample.labels[:, :columns] = CLASS_ID["hair"]
    return samples


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measures faces with so much hair each, cut into tasks of a size."""
    torch.manual_seed(0)
    parser = SmallParser(FaceParser(ParserConfig(channels=4, multipliers=(1, 2))), resolution=tiny.SIDE)
    monkeypatch.setattr(tasks, "load_parser", lambda *_: parser)
    synthesiser = tiny.synthesiser(tmp_path)

    def measured(hair: Sequence[int], size: int) -> Measured:
        shards = tmp_path / "shards"
        if not shards.exists():
            tiny.write_shards(shards, {"test": faces(hair), "validation": tiny.samples(3, seed=1)})
        subjects: Any = SimpleNamespace(
            synthesiser=lambda: synthesiser, shards=str(shards), parser=None, device=torch.device("cpu")
        )
        examiner = Examiner(subjects, np.full((19, 3), 127.0), np.ones(19, np.int64), COUNTS, seed=0)
        found = [examiner(**task) for task in COUNTS.tasks(size)]
        return Measured.gather(found[::-1], COUNTS)

    return measured


def test_tasks_cover_the_first_faces_of_both_splits() -> None:
    splits: Any = {"train": ["a"] * 9, "test": ["a"] * 7, "validation": ["a"] * 3}
    assert Counts.of(splits, 5) == COUNTS
    assert COUNTS.tasks(3) == [
        {"split": "test", "start": 0, "stop": 3},
        {"split": "test", "start": 3, "stop": 5},
        {"split": "validation", "start": 0, "stop": 3},
    ]
    assert Counts.of(splits | {"validation": ["a"]}, 5) == (5, 0), "one face has nobody to be compared with"


def test_numbers_do_not_depend_on_how_the_tasks_are_cut(examine: Any) -> None:
    whole, parts = (examine([10, 9, 0, 8, 11], size) for size in (5, 2))
    assert list(whole.metrics) == list(parts.metrics) == ["reconstruction", "parser", "swap_hair", "conditioning"]
    for task, rows in whole.metrics.items():
        for row, metrics in rows.items():
            assert parts.metrics[task][row] == pytest.approx(metrics, rel=1e-3), (task, row)
    assert whole.swap.positions.tolist() == parts.swap.positions.tolist() == [0, 1, 3, 4]
    assert len(whole.losses) == 3


def test_each_face_is_sampled_once_and_each_pair_once_more(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[int]] = []
    synthesise = Synthesiser.synthesise

    def counted(self: Synthesiser, style: torch.Tensor, labels: np.ndarray, seeds: list[int]) -> np.ndarray:
        made.append(seeds)
        return synthesise(self, style, labels, seeds)

    monkeypatch.setattr(Synthesiser, "synthesise", counted)
    examine([10, 9, 0, 8, 11], 5)
    assert made == [[0, 1, 2, 3, 4], [0, 1, 3, 4]]


def test_without_hair_that_task_is_left_out_and_the_others_stay(examine: Any) -> None:
    found = examine([0] * 5, 3)
    assert list(found.metrics) == ["reconstruction", "parser", "conditioning"]
    assert len(found.swap) == 0


def test_the_share_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured({}, *(None, None))  # type: ignore[arg-type]
    for ceiling, expected in ((0.8, 0.25), (0.2, None)):
        rows = {"style_blind": {"ssim": 0.4}, "model": {"ssim": 0.5}, "ceiling": {"ssim": ceiling}}
        vars(measured)["metrics"] = {"reconstruction": rows}
        assert measured.ssim_share == (None if expected is None else pytest.approx(expected))
