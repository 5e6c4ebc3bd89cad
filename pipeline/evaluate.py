"""Measure the model on the pinned test split and on validation faces, and write metrics, figures and the report."""

import json
from functools import partial

from scadm import tracking
from scadm.cluster.data import map_tasks
from scadm.data.shards import ShardReader
from scadm.evaluation import summary
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.gallery import figures, save
from scadm.evaluation.reconstruction import Subjects
from scadm.evaluation.report import write_report
from scadm.evaluation.tasks import Counts, Examiner, Measured
from scadm.files import checkpoint
from scadm.files.manifest import Manifest, digest
from scadm.files.store import Store
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    params, trained = stage.params, stage.read_json("models/train.json")
    data, _ = stage.manifest("data/shards"), Manifest.read(stage.path("models/parser"))
    shards, reports = stage.place("data/shards"), stage.path("reports")
    tracked = tracking.Tracked(tracking.tracking_uri(params.tracking, stage.home), trained["mlflow_run"])
    weights = tracking.find_weights(trained, stage.storage_root, tracked, stage.home / ".work")
    if stage.shared is not None and "://" not in weights:  # fetched from MLflow: now where every node finds them
        checkpoint.copy_checkpoint(Store(weights), Store(f"{stage.storage_root}/{trained['weights']}"))
        weights = f"{stage.storage_root}/{trained['weights']}"
    subjects = Subjects(
        weights=weights,
        autoencoder=stage.path("models/autoencoder"),
        parser=stage.path("models/parser"),
        shards=shards,
        sampling=params.sampling,
        use_gpu=params.cluster.use_gpu,
    )
    samples, size = params.evaluation.samples, params.evaluation.batch_size
    ids, counts = data.splits["test"][:samples], Counts.of(data.splits, samples)
    colours = MeanColours.measure(ShardReader(shards, "train"))
    found = map_tasks(
        partial(Examiner, subjects, colours.colours, colours.pixels, counts, params.project.seed),
        counts.tasks(size),
        cluster=params.cluster,
        use_gpu=params.cluster.use_gpu,
        folder=stage.path("models/parser"),
        what="evaluate",
        unit="faces",
        weight=lambda task: task["stop"] - task["start"],
        spread=stage.spread(stage.work_folder(), ["models/autoencoder", "models/parser"]),
    )
    measured = Measured.gather(found, counts)
    pictures = figures(subjects.synthesiser(), colours, ShardReader(shards, "test"), params.evaluation.figure_rows)
    stage.write("reports/metrics.json", json.dumps(measured.metrics, indent=1) + "\n")
    test_split = digest({"faces": data.inputs["data/onehot"], "ids": ids})
    tree = params.model_dump(mode="json")
    evaluated = tracking.evaluation_run(params.tracking, stage.home, tracked, stage.run_key, tree)
    stage.write("reports/evaluation.json", summary.evaluation_json(trained, measured, test_split, evaluated.run_id))
    stage.publish(save(pictures, stage.work_folder()), "reports/figures", None)
    page = summary.report_data(params, trained, measured, pictures, colours, data, test_split, reports)
    write_report(reports / "index.html", page)
    tracking.log_evaluation(evaluated, measured.metrics, reports)
    for line in summary.lines(measured):
        stage.say(line)


if __name__ == "__main__":
    run("evaluate", main)
