"""One real run of all ten stages, and what people do with it: real DVC, Ray, MLflow and webdataset."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webdataset
import yaml
from projects import Project

from scadm import faces
from scadm.files.manifest import SPLITS, Manifest

pytestmark = pytest.mark.slow

ROWS = {"style_blind", "own_colours", "model", "ceiling"}


@pytest.fixture(scope="module")
def project(finished: Project) -> Project:
    return finished


def test_every_out_has_a_manifest_that_verifies(project: Project) -> None:
    manifests = {
        name: Manifest.read(project.folder / name)
        for name in ("data/raw", "data/onehot", "models/autoencoder", "data/shards", "models/parser")
    }
    assert manifests["data/raw"].counts["faces"] == 96
    splits = manifests["data/shards"].splits
    assert splits == manifests["data/onehot"].splits
    assert sum(len(splits[split]) for split in SPLITS) == 96
    assert manifests["data/shards"].inputs["data/onehot"] == manifests["data/onehot"].digest
    assert manifests["data/shards"].autoencoder == manifests["models/autoencoder"].autoencoder


def test_the_webdataset_library_reads_the_shards(project: Project) -> None:
    shards = sorted(str(path) for path in (project.folder / "data/shards").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 96
    for sample in samples:
        assert sample["latent.npy"].shape == (2, 3, 16, 16)
        assert sample["latent.npy"].dtype == np.float16
        assert sample["image.webp"].shape == (64, 64, 3)
    train = json.loads((project.folder / "data/shards/manifest.json").read_text())["splits"]["train"]
    assert sorted(s["__key__"] for s in samples if s["json"]["split"] == "train") == sorted(train)


def test_metrics_have_all_four_rows(project: Project) -> None:
    rows = json.loads((project.folder / "reports/metrics.json").read_text())["reconstruction"]
    assert set(rows) == ROWS
    for row in rows.values():
        sets = {"frechet_small-64", "kernel_small-64", "kernel_small-64_std"}
        assert {"ssim", "psnr", "miou", "accuracy", *sets} == set(row)
        assert 0 < row["ssim"] < 1 and 0 <= row["miou"] <= row["accuracy"] <= 1
    # Painting each face's own colours says more of it than painting everyone's.
    assert rows["own_colours"]["ssim"] > rows["style_blind"]["ssim"]


def test_metrics_say_whether_the_conditioning_is_used(project: Project) -> None:
    metrics = json.loads((project.folder / "reports/metrics.json").read_text())
    evaluation = json.loads((project.folder / "reports/evaluation.json").read_text())
    experiments = {"reconstruction", "total_swap", "partial_swap", "interpolation", "noise_only"}
    assert set(metrics) == {*experiments, "parser", "conditioning", "seconds"}
    assert set(metrics["parser"]["truth"]) == {"miou", "accuracy"}
    assert {"transfer", "arrival"} <= set(metrics["partial_swap"]["hair"])
    intervals = json.loads((project.folder / "reports/intervals.json").read_text())
    low, high = intervals["partial_swap"]["hair"]["transfer"]
    assert low <= metrics["partial_swap"]["hair"]["transfer"] <= high
    assert 2 <= evaluation["pairs"]["hair"] <= evaluation["faces"] == 12
    assert set(metrics["conditioning"]) == {"own", "other_styles", "other_masks"}
    assert metrics["conditioning"]["own"]["loss"] > 0
    assert 2 <= evaluation["conditioning_faces"] <= 12
    rows = metrics["reconstruction"]
    model, floor, ceiling = (rows[row]["ssim"] for row in ("model", "style_blind", "ceiling"))
    assert evaluation["ssim_share"] == pytest.approx((model - floor) / (ceiling - floor))
    assert "The loss under wrong conditions" in (project.folder / "reports/index.html").read_text()


def test_training_makes_the_model_better(project: Project) -> None:
    validation = pd.read_csv(project.folder / "reports/validation.csv")
    assert validation["step"].tolist() == [20, 40]
    # At the same noise and timesteps, so that the difference is the training's; 0.77 seen between the two.
    assert validation["loss"].iloc[-1] < 0.9 * validation["loss"].iloc[0]


def test_the_report_is_one_file_with_its_pictures_inside(project: Project) -> None:
    page = (project.folder / "reports/index.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((project.folder / "reports/figures").iterdir())) == 12
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "nothing is loaded from elsewhere"


def test_the_champion_loads_and_predicts_in_a_fresh_process(project: Project, tmp_path: Path) -> None:
    registration = json.loads((project.folder / "reports/registration.json").read_text())
    assert registration["promoted"], registration["reasons"]
    (example,) = re.findall(r"```python\n(.*?)```", (project.folder / "README.md").read_text(), re.DOTALL)
    default = "sca-dm-synthetic-64"
    assert example.count(default) == 1
    example = example.replace(default, registration["model"])
    script = tmp_path / "predict.py"
    script.write_text(
        example
        + """
import numpy as np

assert [Image.open(f"{name}.png").size for name in ("dressed", "noise")] == [(64, 64)] * 2
table = pd.DataFrame({"mask": [png(labels[0])] * 3, "reference": [None, png(images[1]), None], "seed": [1, 1, 1]})
noise, dressed, again = model.predict(table)["image"]
assert noise == again, "the same mask and seed give the same face"
assert noise != dressed, "a reference changes the face"
print("predicted")
"""
    )
    assert "predicted" in project.run("python", str(script)).stdout


def test_one_mlflow_run_holds_params_metrics_pictures_and_lineage(project: Project) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps"] == "40"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(5, 41, 5)), "every logged step once"
    assert {"train/lr", "train/images_per_s", "validation/loss", "reconstruction/model/ssim"} <= set(run.data.metrics)
    names = {"partial_swap/hair/transfer", "partial_swap/hair/transfer_low", "conditioning/other_styles/rise"}
    assert names <= set(run.data.metrics)
    assert {"scadm.git_commit", "scadm.dvc_lock", "scadm.data_manifest"} <= set(run.data.tags)
    assert run.inputs.dataset_inputs[0].dataset.name == "synthetic-smoke"
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"reconstruction.png", "partial_swap.png", "images", "report", "weights"} <= artifacts


def test_a_second_repro_runs_nothing(project: Project) -> None:
    start = time.monotonic()
    done = project.run("dvc", "repro")
    assert "Running stage" not in done.stdout
    assert time.monotonic() - start < 10


def test_an_edit_of_evaluation_tracking_or_app_does_not_train_again(project: Project) -> None:
    touched = {}
    for name in (
        "scadm/evaluation/figures.py",
        "scadm/report/sections.py",
        "scadm/tracking/run_logger.py",
        "scadm/app/cli.py",
        "scadm/models/unet.py",
    ):
        path = project.folder / name
        before = path.read_text()
        path.write_text(before + "\n# an edit\n")
        touched[name] = set(json.loads(project.run("dvc", "status", "--json").stdout))
        path.write_text(before)
    assert touched["scadm/evaluation/figures.py"] == {"evaluate"}
    assert touched["scadm/report/sections.py"] == {"report"}, "a word in the report measures nothing again"
    assert touched["scadm/tracking/run_logger.py"] == set()
    assert touched["scadm/app/cli.py"] == set()
    assert "train" in touched["scadm/models/unet.py"], "the check itself can fail"


def test_plots_and_metrics_are_there_for_dvc(project: Project) -> None:
    assert "reconstruction" in project.run("dvc", "metrics", "show").stdout
    project.run("dvc", "plots", "show")
    page = (project.folder / "dvc_plots/index.html").read_text()
    assert "Diffusion loss" in page and "reconstruction.png" in page


def test_a_clone_pulls_from_a_folder_and_reproduces_nothing(project: Project, tmp_path: Path) -> None:
    _push_and_pull(project, tmp_path, str(tmp_path / "remote"))


def test_a_clone_pulls_from_s3_and_reproduces_nothing(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")  # what moto accepts: anything
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="faces")
        _push_and_pull(project, tmp_path, "s3://faces/dvc", "endpointurl", endpoint)
    finally:
        server.stop()


def _push_and_pull(project: Project, tmp_path: Path, url: str, *option: str) -> None:
    def add_remote(folder: Path) -> None:
        project.run("dvc", "--cd", str(folder), "remote", "add", "-f", "-d", "--local", "shared", url)
        if option:
            project.run("dvc", "--cd", str(folder), "remote", "modify", "--local", "shared", *option)

    add_remote(project.folder)
    project.run("dvc", "push")
    clone = tmp_path / "clone"
    project.run("git", "clone", "-q", str(project.folder), str(clone))
    add_remote(clone)
    project.run("dvc", "--cd", str(clone), "pull")
    done = project.run("dvc", "--cd", str(clone), "repro", PYTHONPATH=str(clone))
    assert "Running stage" not in done.stdout
    Manifest.read(clone / "data/shards")


def test_two_queued_experiments_end_in_the_store_of_the_project(project: Project) -> None:
    from mlflow.tracking import MlflowClient

    baseline = project.run("git", "rev-parse", "HEAD").stdout.strip()
    for rate in ("0.001", "0.003"):
        changes = (f"training.learning_rate={rate}", "training.steps=2", "cluster.workers=0")
        project.run("dvc", "exp", "run", "--queue", *(part for c in changes for part in ("-S", c)), "train")
    done = project.run("dvc", "exp", "run", "--run-all")
    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("sca-dm")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    rates = {run.data.params["training.learning_rate"] for run in runs}
    assert {"0.001", "0.003"} <= rates, done.stdout[-3000:]

    # DVC keeps a finished experiment as a commit, under its baseline and its own name.
    kept = project.run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/{baseline[:2]}/{baseline[2:]}")
    queued = {}
    for ref in kept.stdout.split():
        params = yaml.safe_load(project.run("git", "show", f"{ref}:params.yaml").stdout)
        queued[ref.rpartition("/")[2]] = str(params["training"]["learning_rate"])
    assert sorted(queued.values()) == ["0.001", "0.003"]
    tagged = {name: run for run in runs if (name := run.data.tags.get("scadm.dvc_experiment")) is not None}
    assert {name: run.data.params["training.learning_rate"] for name, run in tagged.items()} == queued
    assert {run.data.tags["scadm.dvc_baseline"] for run in tagged.values()} == {baseline}
    (plain,) = (run for run in runs if run not in tagged.values())
    assert "scadm.dvc_baseline" not in plain.data.tags, "`dvc repro` is no experiment"
    # What is compared has the same names, here and in a run that was not queued.
    for run in tagged.values():
        assert run.data.params.keys() == plain.data.params.keys()
        assert _of_training(run.data.metrics) == _of_training(plain.data.metrics) >= {"train/loss", "train/lr"}


def _of_training(metrics: Mapping[str, float]) -> set[str]:
    return {name for name in metrics if name.startswith("train/")}


def test_a_rejected_experiment_is_a_result_and_not_lost(project: Project) -> None:
    """The gate's answer is no error: DVC would throw away the experiment of a stage that fails."""
    from mlflow.tracking import MlflowClient

    before = json.loads((project.folder / "reports/registration.json").read_text())
    changes = ("sampling.steps=2", "registry.gate.min_ssim_share=9.0")
    project.run("dvc", "exp", "run", "--temp", "--name", "rejected", *(part for c in changes for part in ("-S", c)))
    shown = project.run(
        "python", "-c", "import dvc.api; print(dvc.api.read('reports/registration.json', rev='rejected'))"
    )
    registration = json.loads(shown.stdout)
    assert not registration["promoted"] and "below the required 900.0%" in registration["reasons"][0]
    assert registration["compared_with"]["version"] == before["version"]
    assert "not promoted" in project.run("python", "-c", READ_REPORT).stdout, "the report says so"
    assert json.loads((project.folder / "reports/registration.json").read_text()) == before, "the workspace stays"
    client = MlflowClient(f"sqlite:///{project.folder}/storage/mlflow.db")
    aliases = {
        name: client.get_model_version_by_alias(before["model"], name).version for name in ("champion", "candidate")
    }
    assert {name: str(number) for name, number in aliases.items()} == {
        "champion": before["version"],
        "candidate": registration["version"],
    }


READ_REPORT = "import dvc.api; print(dvc.api.read('reports/index.html', rev='rejected'))"


def test_one_worker_measures_what_two_measured(project: Project, tmp_path: Path) -> None:
    alone = project.copy(tmp_path / "alone")
    (alone.folder / "storage").symlink_to(project.folder / "storage")
    alone.set({"cluster.data_workers": 1})
    alone.run("python", "-m", "pipeline.evaluate")
    one, two = (json.loads((folder / "reports/metrics.json").read_text()) for folder in (alone.folder, project.folder))
    for tree in (one, two):
        assert tree.pop("seconds")
    assert flat(one) == pytest.approx(flat(two), rel=1e-6)


def flat(tree: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    return {f"{a}/{b}/{c}": value for a, rows in tree.items() for b, part in rows.items() for c, value in part.items()}


def test_pictures_of_others_are_scored_on_the_same_faces(project: Project, tmp_path: Path) -> None:
    """The real pictures of the test faces, made dark: as like the real ones as that allows."""
    from PIL import Image

    from scadm.data.shards import ShardReader

    copy = project.copy(tmp_path / "copy")
    reader, folder = ShardReader(str(copy.folder / "data/shards"), "test"), tmp_path / "pictures"
    folder.mkdir()
    for sample in (reader[i] for i in range(12)):
        Image.fromarray(sample.image // 2).save(folder / f"{sample.id}.png")
    done = copy.run("scadm", "evaluate", "--images", str(folder), "--name", "Night")
    assert "comparisons/Night.json holds the scores of 12 faces" in done.stdout
    copy.run("python", "-m", "pipeline.report")
    assert "Night" in (copy.folder / "reports/index.html").read_text()


def test_labels_travel_with_every_out(project: Project) -> None:
    for name in ("data/raw", "data/onehot", "data/shards"):
        assert json.loads((project.folder / name / "manifest.json").read_text())["labels"] == list(faces.LABELS)
