"""Train the small face parser on the train split, or take a pretrained one in."""

import pandas as pd

from scadm.data.tables import FaceTable
from scadm.evaluation.parsers import FacerParser, Parser, SmallParser, TorchScriptParser
from scadm.files.manifest import Manifest, describe_files
from scadm.progress import bar
from scadm.stage import Stage, run
from scadm.training.parser import fit_parser


def main(stage: Stage) -> None:
    tables = stage.path("data/onehot")
    data = Manifest.read(tables)
    config, seed = stage.params.parser, stage.params.project.seed
    history: list[dict] = [{"step": 0, "loss": 0.0}]
    parser: Parser
    if config.kind == "small":
        with bar(config.training.steps, "parser", "steps") as progress:

            def advance(step: int, loss: float) -> None:
                progress.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                progress.update(1)

            network, history = fit_parser(FaceTable(tables, "train"), config, seed, advance)
        parser = SmallParser(network, stage.params.project.resolution)
    else:
        assert config.weights is not None, "the configuration requires them"
        weights = stage.located(config.weights, config.weights_sha256)
        parser = TorchScriptParser(weights) if config.kind == "torchscript" else FacerParser(weights)
    work = stage.work_folder()
    parser.save(work)
    stage.write("reports/parser.csv", pd.DataFrame(history).to_csv(index=False))
    manifest = Manifest(
        stage=stage.name,
        resolution=data.resolution,
        inputs=stage.inputs,
        files=describe_files(work, [path.name for path in work.iterdir() if path.name != "manifest.json"]),
    )
    stage.publish(work, "models/parser", manifest)


if __name__ == "__main__":
    run("parser", main)
