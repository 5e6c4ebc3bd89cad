"""Register the evaluated model as `candidate`, and make it `champion` if the gate says so. Exit 0 either way."""

import json

from scadm import tracking
from scadm.evaluation.gate import judge
from scadm.files.manifest import sha256
from scadm.registry import Registry, describe
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    params = stage.params
    evaluation = stage.read_json("reports/evaluation.json")
    trained, metrics = stage.read_json("models/train.json"), stage.read_json("reports/metrics.json")
    uri = tracking.tracking_uri(params.tracking, stage.home)
    trained_run, evaluated_run = (tracking.Tracked(uri, tree["mlflow_run"]) for tree in (trained, evaluation))
    name = f"sca-dm-{params.project.data_name}-{params.project.resolution}"
    registry = Registry(uri, name)
    version = registry.register(
        evaluated_run.run_id,
        weights=tracking.find_weights(trained, stage.storage_root, trained_run, stage.home / ".work"),
        autoencoder=str(stage.path("models/autoencoder")),
        code=[str(stage.workspace / "scadm")],
        sampling=params.sampling.model_dump(mode="json"),
        metrics=metrics,
        test_split=evaluation["test_split"],
        evaluation=sha256(stage.path("reports/evaluation.json")),
        description=describe(params, metrics, evaluation),
    )
    registry.point("candidate", version)
    champion = registry.by_alias("champion")
    again = champion is not None and champion.number == version.number
    verdict = judge(
        version.metrics,
        None if champion is None or again else champion.metrics,
        params.registry,
        split_digest=version.test_split,
        champion_split_digest=None if champion is None or again else champion.test_split,
    )
    if verdict.promoted:
        registry.point("champion", version)  # last: whoever follows the alias never sees half a promotion
    result = {
        "model": name,
        "version": version.number,
        "uri": version.uri,
        "promoted": verdict.promoted,
        "reasons": list(verdict.reasons),
        "champion": version.number if verdict.promoted else champion.number if champion else None,
        "mlflow_run": evaluated_run.run_id,
    }
    stage.write("reports/registration.json", json.dumps(result, indent=1) + "\n")
    for reason in verdict.reasons:
        stage.say(reason)
    stage.say(f"{name} version {version.number} is {'champion' if verdict.promoted else 'a candidate, not promoted'}")


if __name__ == "__main__":
    run("register", main)
