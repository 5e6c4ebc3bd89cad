"""Register the evaluated model as `candidate`, and make it `champion` if the gate says so. Exit 0 either way."""

import json
import shutil
import tempfile
from pathlib import Path

from scadm import model_card, promotion, tracking
from scadm.evaluation.evaluated import FILES, Evaluated, evaluation_key
from scadm.registry import CANDIDATE, Registry
from scadm.stage import Stage, run


def main(stage: Stage) -> None:
    params, reports = stage.params, stage.path("reports")
    evaluated, trained = Evaluated.read(reports), stage.read_json("models/train.json")
    uri, mlflow_run = tracking.tracking_uri(params.tracking, stage.home), evaluated.facts["mlflow_run"]
    registry = Registry(uri, params.project.registered_name)
    trained_run, work = tracking.Tracked(uri, trained["mlflow_run"]), stage.home / ".work"
    with promotion.alone(stage.home, stage.say), tempfile.TemporaryDirectory(dir=work, prefix="evaluation-") as folder:
        evaluation, card = Path(folder) / "evaluation", model_card.write(params, evaluated)
        evaluation.mkdir()
        for name in FILES:
            shutil.copy(reports / name, evaluation)
        (evaluation / "card.md").write_text(card)
        version = registry.register(
            mlflow_run,
            artifacts={
                "weights": tracking.find_weights(trained, stage.storage_root, trained_run, work),
                "autoencoder": str(stage.path("models/autoencoder")),
                "evaluation": str(evaluation),
            },
            code=[str(stage.workspace / "scadm")],
            sampling=params.sampling.model_dump(mode="json"),
            key=evaluation_key(reports),
            test_split=evaluated.test_split,
            description=card,
        )
        registry.point(CANDIDATE, version)
        decision = promotion.promote(registry, version, params.registry)
    champion = version if decision.promoted else decision.before
    result = {
        "model": registry.name,
        "version": version.number,
        "uri": version.uri,
        "promoted": decision.promoted,
        "reasons": list(decision.verdict.reasons),
        "compared_with": decision.compared_with,
        "champion": champion and champion.number,
        "mlflow_run": mlflow_run,
    }
    stage.write("reports/registration.json", json.dumps(result, indent=1) + "\n")
    for line in decision.lines(version.label):
        stage.say(line)


if __name__ == "__main__":
    run("register", main)
