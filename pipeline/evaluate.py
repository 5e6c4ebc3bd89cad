"""Measure the model: the paper's experiments on the pinned test split, and losses of validation faces."""

from functools import partial

from scadm import lineage, tracking
from scadm.cluster.data import map_tasks
from scadm.data.shards import ShardReader
from scadm.evaluation import written
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.gallery import WORST, Gallery
from scadm.evaluation.measured import Measured
from scadm.evaluation.tasks import Examiner, Plan, Subjects
from scadm.files.manifest import Manifest
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    params, trained = stage.params, stage.read_json("models/train.json")
    data, _ = stage.manifest("data/shards"), Manifest.read(stage.path("models/parser"))
    tracked = tracking.Tracked(tracking.tracking_uri(params.tracking, stage.home), trained["mlflow_run"])
    apart = stage.shared is not None
    subjects = Subjects(
        weights=tracking.find_weights(trained, stage.storage_root, tracked, stage.home / ".work", apart),
        autoencoder=stage.path("models/autoencoder"),
        parser=stage.path("models/parser"),
        shards=stage.place("data/shards"),
        sampling=params.sampling,
        use_gpu=params.cluster.use_gpu,
    )
    plan = Plan.of(params.evaluation, params.sampling, data.splits, params.project.seed)
    colours = MeanColours.measure(ShardReader(subjects.shards, "train"))
    found = map_tasks(
        partial(Examiner, subjects, colours, plan),
        plan.tasks(),
        cluster=params.cluster,
        use_gpu=params.cluster.use_gpu,
        folder=stage.path("models/parser"),
        what="evaluate",
        unit="pictures",
        weight=lambda task: plan.weight(**task),
        spread=stage.spread(stage.work_folder(), ["models/autoencoder", "models/parser"]),
    )
    measured = Measured.gather(found, plan)
    reader = ShardReader(subjects.shards, "test")
    gallery = Gallery(subjects.synthesiser(), colours, reader, params.evaluation, plan.steps, plan.seed)
    stage.publish(gallery.save(measured.worst(WORST), stage.work_folder()), written.FIGURES, None)
    tree = params.model_dump(mode="json")
    evaluated = tracking.evaluation_run(params.tracking, stage.home, tracked, stage.run_key, tree)
    origin = lineage.origin(stage.workspace, data.digest, data.autoencoder)
    about = {"mlflow_run": evaluated.run_id, "unseen": colours.unseen, "lineage": origin}
    for name, text in written.files(trained, data, measured, **about).items():
        stage.write(f"reports/{name}", text)
    tracking.log_evaluation(evaluated, measured.measures, stage.path("reports"))
    for line in written.lines(measured):
        stage.say(line)


if __name__ == "__main__":
    run("evaluate", main)
