"""Train the small face parser on the train split, or take a pretrained one in; with it the networks of metrics."""

import pandas as pd

from scadm.data.tables import FaceTable
from scadm.evaluation.networks import save_networks
from scadm.evaluation.parsers import FacerParser, Parser, SmallParser, TorchScriptParser, require_sides
from scadm.files.manifest import FILE_NAME, Manifest, describe_files
from scadm.files.sharing import files_of
from scadm.progress import bar
from scadm.stage import Stage, run
from scadm.training.parser import fit_parser

SIDED = 16
"""Faces by which a pretrained parser shows that its left is the masks' left."""


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
        table = FaceTable(tables, "train")
        require_sides(parser, *table.batch(range(min(len(table), SIDED))))
    work = stage.work_folder()
    parser.save(work)
    metrics = stage.params.metrics
    lpips = None if metrics.lpips is None else stage.located(metrics.lpips, metrics.lpips_sha256)
    inception = None if metrics.inception is None else stage.located(metrics.inception, metrics.inception_sha256)
    save_networks(work, lpips, inception)
    stage.write("reports/parser.csv", pd.DataFrame(history).to_csv(index=False))
    manifest = Manifest(
        stage=stage.name,
        resolution=data.resolution,
        inputs=stage.inputs,
        files=describe_files(work, [name for name in files_of(work) if name != FILE_NAME]),
    )
    stage.publish(work, "models/parser", manifest)


if __name__ == "__main__":
    run("parser", main)
