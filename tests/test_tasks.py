"""The evaluation's tasks: who measures what, and that nothing depends on how they were cut."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from scadm.config import EvaluationConfig, ParserConfig
from scadm.data.shards import Sample, ShardReader
from scadm.evaluation import written
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.measured import Measured
from scadm.evaluation.networks import Networks
from scadm.evaluation.parsers import SmallParser
from scadm.evaluation.scores import Judges
from scadm.evaluation.tasks import Examiner, Plan
from scadm.faces import CLASS_ID, LABELS
from scadm.files.manifest import Manifest
from scadm.models.parser import FaceParser

CONFIG = EvaluationConfig(
    samples=5,
    batch_size=2,
    figure_rows=2,
    swaps={"hair": ("hair",), "hat": ("hat",)},
    interpolated=3,
    steps=(2,),
)
SPLITS: Any = {"train": ["t"], "validation": ["v"] * 3, "test": [f"face-{i}" for i in range(7)]}
PLAN = Plan.of(CONFIG, tiny.SAMPLING, SPLITS, seed=0)


def faces(hair: list[int]) -> list[Sample]:
    """With so many columns of hair, and skin beside it."""
    samples = tiny.samples(len(hair), seed=2)
    for sample, columns in zip(samples, hair, strict=True):
        sample.labels[:] = CLASS_ID["skin"]
        sample.labels[:, :columns] = CLASS_ID["hair"]
    return samples


@pytest.fixture(scope="module")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examiner]:
    folder, threads = tmp_path_factory.mktemp("tasks"), torch.get_num_threads()
    tiny.write_shards(
        folder / "shards", {"test": faces([10, 9, 0, 8, 11, 5, 5]), "validation": tiny.samples(3, seed=1)}
    )
    torch.manual_seed(0)
    parser = SmallParser(FaceParser(ParserConfig(channels=4, multipliers=(1, 2))), resolution=tiny.SIDE)
    made = Examiner.__new__(Examiner)
    made.synthesiser, made.judges = tiny.painting(folder), Judges(parser, Networks(None, None))
    made.readers = {name: ShardReader(str(folder / "shards"), name) for name in ("test", "validation")}
    made.colours, made.plan = MeanColours(np.full((19, 3), 127.0), np.ones(19, np.int64)), PLAN
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def measured(examiner: Examiner) -> Measured:
    return Measured.gather([examiner(**task) for task in PLAN.tasks()], PLAN)  # type: ignore[arg-type]


def test_a_plan_covers_the_first_faces_of_both_splits_with_the_dear_tasks_first() -> None:
    assert (PLAN.test, PLAN.validation, PLAN.steps) == (5, 3, (2, 4))
    assert Plan.of(CONFIG, tiny.SAMPLING, SPLITS | {"validation": ["v"]}, 0).validation == 0, (
        "one face has nobody to be compared with"
    )
    tasks = PLAN.tasks()
    assert [(t["start"], t["stop"]) for t in tasks if t["kind"] == "edits"] == [(0, 2), (2, 4), (4, 5)]
    assert [t["steps"] for t in tasks if t["kind"] == "noise_only"] == [4, 4, 4, 2, 2, 2]
    assert [(t["start"], t["stop"]) for t in tasks if t["kind"] == "conditioning"] == [(0, 2), (2, 3)]
    weights = [PLAN.weight(**task) for task in tasks]  # type: ignore[arg-type]
    assert weights[:3] == [2 * 4 + 2 * 7, 2 * 4 + 7, 4]
    assert weights[3:6] == [4, 4, 2], "two pictures of each, for diversity"


def test_numbers_do_not_depend_on_how_the_tasks_are_cut(examiner: Examiner, measured: Measured) -> None:
    """To the last digit: every picture is made and read in a chunk of the same size."""
    other = Plan.of(CONFIG.model_copy(update={"batch_size": 4}), tiny.SAMPLING, SPLITS, 0)
    found = [examiner(**task) for task in reversed(other.tasks())]  # type: ignore[arg-type]
    again = Measured.gather(found, other).measures
    for task, rows in measured.measures.items():
        if task in ("seconds", "conditioning"):  # times; and a loss is of the batch that it is computed in
            continue
        assert again[task] == rows, task
    losses = measured.measures["conditioning"]["own"]["loss"]
    assert again["conditioning"]["own"]["loss"] == pytest.approx(losses, rel=1e-4)


def test_every_experiment_has_its_rows(measured: Measured) -> None:
    rows = {task: list(part) for task, part in measured.measures.items()}
    assert rows == {
        "reconstruction": ["style_blind", "own_colours", "model", "ceiling"],
        "parser": ["truth"],
        "total_swap": ["model"],
        "partial_swap": ["hair"],
        "interpolation": ["parts", "whole"],
        "noise_only": ["steps_2", "steps_4"],
        "conditioning": ["own", "other_styles", "other_masks"],
        "seconds": ["steps_2", "steps_4"],
    }, "nobody wears a hat"
    assert measured.rows("partial_swap")["hair"].positions.tolist() == [0, 1, 3, 4]
    diverse = {row for row, part in measured.measures["noise_only"].items() if any("diversity" in n for n in part)}
    assert diverse == {"steps_4"}, "in the steps of all else"


def test_a_task_s_faces_are_all_there(examiner: Examiner) -> None:
    found = [examiner(**task) for task in PLAN.tasks()[:2]]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"measured of 4 faces, expected the first 5; missing positions \[4\]"):
        Measured.gather(found, PLAN)


def test_the_whole_style_and_the_last_picture_of_its_interpolation_are_one(measured: Measured) -> None:
    """The way from the reconstruction ends where the total swap is: what is measured of both is of one picture."""
    assert len(measured.rows("interpolation")["whole"]) == 3
    assert measured.rows("interpolation")["whole"].steps.shape == (3, 4)


def test_the_worst_come_first(measured: Measured) -> None:
    worst = measured.worst(3)
    assert list(worst) == ["ssim", "psnr", "miou", "accuracy"]
    by_face = measured.model.by_face()
    for name, positions in worst.items():
        assert by_face[name][positions].tolist() == sorted(by_face[name])[:3]


def test_files_hold_the_numbers(measured: Measured) -> None:
    trained, ids = {"run_key": "k", "sha256": "s"}, SPLITS["test"]
    data = Manifest(stage="latents", splits=SPLITS, inputs={"data/onehot": "0"})
    files = written.files(trained, data, measured, mlflow_run="r", unseen=("hat",), lineage={"a": "b"})
    metrics, intervals = (json.loads(files[name]) for name in ("metrics.json", "intervals.json"))
    ssim = measured.measures["reconstruction"]["model"]["ssim"]
    assert metrics["reconstruction"]["model"]["ssim"] == ssim.value
    assert intervals["reconstruction"]["model"]["ssim"] == [ssim.low, ssim.high]
    assert "frechet_small-16" in metrics["total_swap"]["model"]
    assert "frechet_small-16" not in intervals["total_swap"]["model"]
    table = pd.read_csv(StringIO(files["faces.csv"]))
    assert table["id"].tolist() == ids[:5] * 4
    assert list(table.columns) == ["id", "row", "ssim", "psnr", "miou", "accuracy"]
    assert table[table["row"] == "model"]["ssim"].mean() == pytest.approx(ssim.value, abs=1e-6)
    assert pd.read_csv(StringIO(files["steps.csv"]))["steps"].tolist() == [2, 4]
    evaluation = json.loads(files["evaluation.json"])
    assert (evaluation["faces"], evaluation["pairs"], evaluation["parser"]) == (5, {"hair": 4, "hat": 0}, "small-16")
    assert evaluation["unseen"] == ["hat"] and evaluation["networks"] == []
    assert set(evaluation["class_iou"]["truth"]) == {"hair", "skin"} <= set(LABELS)
    said: Any = list(written.lines(measured))
    assert any(line.startswith("total_swap") for line in said) and "SSIM" in said[-1]


def test_a_picture_is_drawn_for_every_figure(examiner: Examiner, measured: Measured, tmp_path: Path) -> None:
    from scadm.evaluation.figures import Figure
    from scadm.evaluation.gallery import Gallery

    gallery = Gallery(examiner.synthesiser, examiner.colours, examiner.readers["test"], CONFIG, PLAN.steps, 0)
    gallery.save(measured.worst(3), tmp_path)
    drawn = {path.stem: Figure.open(path) for path in tmp_path.iterdir()}
    assert set(drawn) == {
        *("three_ways", "reconstruction", "total_swap", "partial_swap", "interpolation_parts", "interpolation_whole"),
        *("noise_only", "noise_only_steps", "worst_ssim", "worst_psnr", "worst_miou", "worst_accuracy"),
    }
    assert "hair" in drawn["interpolation_parts"].caption and "After Fig. 6" in drawn["interpolation_parts"].caption
    assert drawn["total_swap"].title == "The whole style of another face"
    assert drawn["worst_ssim"].image.width > drawn["worst_ssim"].image.height / 2
