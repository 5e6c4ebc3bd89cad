"""The model card: what a registered model is, what it was made from, what it is good for and what it is not."""

from collections.abc import Iterator, Mapping
from typing import Any

from scadm.config import Params
from scadm.evaluation.evaluated import MODEL, Evaluated
from scadm.redaction import redacted

_METHODS = {
    "sca-dm": "SCA-DM: semantic latent diffusion that paints a face part by part, from a mask of 19 classes and, for "
    "each part, the style of a reference face or of noise.",
    "sdm": "SDM, a baseline: semantic latent diffusion that paints a face from a mask of 19 classes. It has no style "
    "encoder: references are ignored.",
}

_DATA = {
    "synthetic": "Faces drawn by this project; free of any person's likeness.",
    "celebamask-hq": "CelebAMask-HQ: for non-commercial research only, and so is this model.",
    "folder": "The user's own faces: the terms under which they were collected hold for this model too.",
}

_USE = """\
## Use
Meant for research on controllable synthesis: to study, compare and teach how a mask and the styles of its parts make a
picture, and to edit faces whose owners agree to it.

Not meant, and not fit, for
- impersonation: pictures of an existing person that pass for real, or that the person does not want;
- identification: nothing here tells who somebody is, and a reconstruction is no evidence of anybody's looks;
- conclusions about people: the faces that it makes represent neither a population nor the data that it learned from,
  and whatever is rare there it makes worse. As training data they need a check of their own."""

_COLUMNS = ("ssim", "psnr", "miou", "accuracy")


def write(params: Params, evaluated: Evaluated) -> str:
    """The card of an evaluated model, in Markdown: a version's description in MLflow, and its card.md."""
    name = params.project.registered_name
    parts = [
        f"# {name}\n{_METHODS[params.model.method]}",
        f"## Training\n{_training(params)}\n\nData: {_DATA[params.data.source]}",
        "## Measured\n" + "\n".join(_measured(evaluated)),
        "## Limits\n" + "\n".join(f"- {limit}" for limit in _limits(params, evaluated)),
        _USE,
        "## Lineage\n" + "\n".join(_table(("what", "which"), _lineage(evaluated.facts))),
        _loading(name),
    ]
    return "\n\n".join(parts) + "\n"


def _training(params: Params) -> str:
    training = params.training
    made = f"At {params.project.resolution} pixels, "
    if training.init_from is None:
        return f"{made}trained for {training.steps} steps of {training.batch_size} faces."
    done = "the weights"
    if training.steps:
        done = f"trained for {training.steps} steps of {training.batch_size} faces from the weights"
    return f"{made}{done} of {redacted(training.init_from)}, whose terms hold for this model too."


def _measured(evaluated: Evaluated) -> Iterator[str]:
    facts, tasks = evaluated.facts, evaluated.metrics
    yield f"On {facts.get('faces', len(evaluated.ssim))} test faces, read by the parser {facts.get('parser', '?')}:\n"
    rows = tasks.get("reconstruction", {})
    yield from _table(
        ("reconstruction", *_COLUMNS),
        ([row, *(_number(found.get(column)) for column in _COLUMNS)] for row, found in rows.items()),
    )
    yield (
        "\nstyle_blind paints everyone's mean colours into the mask, own_colours the face's own, ceiling is the real "
        "face through the autoencoder and back: what counts is the share of the way from the first to the last."
    )
    swaps = {"whole face": tasks.get("total_swap", {}).get(MODEL, {})} | dict(tasks.get("partial_swap", {}))
    if swaps := {name: found for name, found in swaps.items() if found.keys() & {*_SWAP}}:
        yield ""
        yield from _table(
            ("style of another face", *_SWAP),
            ([name, *(_number(found.get(column)) for column in _SWAP)] for name, found in swaps.items()),
        )
        yield (
            "\nTransfer is how far the colours go along the way to the other face's (1: all of it), leakage how much "
            "the rest changes beside it (0: not at all)."
        )


_SWAP = ("transfer", "leakage")


def _limits(params: Params, evaluated: Evaluated) -> Iterator[str]:
    yield (
        f"{len(evaluated.ssim)} test faces of one data set at {params.project.resolution} pixels: small differences "
        "between models may be chance, and other faces may fare otherwise."
    )
    yield f"One training, with seed {params.training.seed}: another seed gives other numbers."
    yield (
        f"mIoU and accuracy are what the parser {evaluated.facts.get('parser', '?')} reads, with its own faults: only "
        "what it reads in the ceiling tells how good a number is."
    )
    yield "Whether a picture still shows who somebody is was not measured: rely neither on likeness nor on anonymity."


def _lineage(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = {
        "run_key": "run key of the training",
        "mlflow_run": "MLflow run",
        "weights_sha256": "sha256 of the weights' manifest",
        "test_split": "digest of the test split",
    }
    yield from ((said, f"`{facts[key]}`") for key, said in known.items() if key in facts)
    yield from ((key.replace("_", " "), f"`{value}`") for key, value in facts.get("lineage", {}).items())


def _loading(name: str) -> str:
    return (
        "## Loading\n```python\n"
        'mlflow.set_tracking_uri("sqlite:///storage/mlflow.db")  # or the server\'s address\n'
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")  # or /VERSION\n'
        'faces = model.predict(pd.DataFrame({"mask": [png], "seed": [0]}))["image"]\n```\n'
        "`mask` is a PNG of class ids in base64, and so is what comes out; `reference`, a face, and `reference_mask` "
        "are optional: without them noise chooses the style."
    )


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
