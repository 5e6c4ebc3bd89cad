"""Parameters: what is valid, and how a fault is named."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from scadm import profiles
from scadm.config import FACER_WEIGHTS, Params, flatten, load_params, validate

CONF = Path(__file__).resolve().parents[1] / "conf"
BASE = yaml.safe_load((CONF / "base.yaml").read_text())


def base(**changes: Any) -> dict[str, Any]:
    """conf/base.yaml with values at dotted keys changed (`__` for the dot)."""
    tree = copy.deepcopy(BASE)
    for key, value in changes.items():
        *sections, name = key.split("__")
        part = tree
        for section in sections:
            part = part[section]
        part[name] = value
    return tree


@pytest.mark.parametrize("name", profiles.names(CONF))
def test_every_profile_is_valid(name: str) -> None:
    params = validate(yaml.safe_load(profiles.render(name, CONF)), name)
    assert isinstance(params, Params)


def test_the_paper_s_configuration() -> None:
    params = validate(yaml.safe_load(profiles.render("celebamask-hq", CONF)), "celebamask-hq")
    assert params.model.unet.multipliers == (1, 2, 3, 4)
    assert (params.model.unet.channels, params.model.style_encoder.style_channels) == (224, 256)
    assert params.training.batch_size == 48
    assert params.training.learning_rate == pytest.approx(2e-6 * 8 * 6)
    assert params.sampling.guidance_scale == 1.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__speed": 3}, "unknown key training.speed = 3"),
        ({"optimiser": {"name": "adam"}}, "unknown key optimiser = "),
        ({"training__steps": "many"}, "training.steps = 'many': Input should be a valid integer"),
        ({"training__steps": -1}, "training.steps = -1: Input should be greater than or equal to 0"),
        ({"training__steps": 0}, "steps is 0, expected at least 1: without training.init_from"),
        ({"training__precision": "fp64"}, "training.precision = 'fp64': Input should be 'fp32', 'bf16' or 'auto'"),
        ({"project__data_name": "My Faces"}, "project.data_name = 'My Faces'"),
        ({"project__resolution": 60}, "project.resolution = 60: Input should be a multiple of 8"),
        ({"diffusion__no_reference": 1.5}, "diffusion.no_reference = 1.5"),
        (
            {"training__batch_size": 2, "cluster__workers": 3},
            "cluster.workers 3 are more than the 2 images of training.batch_size",
        ),
        (
            {"cluster__min_workers": 4, "cluster__workers": 2},
            "cluster: min_workers is 4 and workers is 2: expected at most as many",
        ),
        (
            {"model__style_encoder__downsamplings": 4, "project__resolution": 24},
            "style_encoder.downsamplings 4 needs a project.resolution divisible by 16, it is 24",
        ),
        (
            {"project__resolution": 16, "model__unet__multipliers": [1, 1, 2, 2]},
            "multipliers has 4 levels, which need latents divisible by 8, but project.resolution 16 gives latents of 4",
        ),
        ({"model__style_encoder__scales": 5}, "scales 5 must not exceed downsamplings 3"),
        ({"data__sha256": "0" * 64}, "data: sha256 is 0+, .* but source is synthetic: expected null"),
        (
            {"parser__kind": "facer"},
            "parser: weights is null, expected facer's weights.*celebamask-hq uses https://",
        ),
        ({"parser__kind": "torchscript"}, "parser: weights is null, expected a TorchScript file"),
        ({"data__path": "faces.zip"}, "data: source is synthetic, which draws faces, but path is 'faces.zip'"),
        ({"storage__root": "s3://b/c?scheme=http"}, "storage.root = .*without settings behind.*AWS_ENDPOINT_URL"),
        (
            {"storage__root": "s3://AKID:S3/cret@bucket/path"},
            r"storage.root = 's3://\*\*\*@bucket/path': expected an address without user and password.*environment",
        ),
        ({"data__known_bad": [83]}, "data.known_bad = .83.: expected ids in quotes"),
        ({"data__addresses": "http://a/b.zip"}, "data.addresses = 'http://a/b.zip': expected a list"),
        ({"data__split": {"rule": "fraction", "validation": 0.5, "test": 0.5}}, "validation 0.5 [+] test 0.5"),
    ],
)
def test_a_fault_is_named_with_its_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"params.yaml is not valid:(.|\n)*{message}"):
        validate(base(**changes), "params.yaml")


@pytest.mark.parametrize("root", ["storage", "/data/a:b@c", "s3://bucket/a@b", "abfs://runs@account/x", "gs://b/x:y@z"])
def test_a_storage_root_without_a_password_is_taken(root: str) -> None:
    assert validate(base(storage__root=root), "params.yaml").storage.root == root


def test_facer_s_weights_are_those_of_the_profile() -> None:
    params = validate(yaml.safe_load(profiles.render("celebamask-hq", CONF)), "celebamask-hq")
    assert (params.parser.kind, params.parser.weights) == ("facer", FACER_WEIGHTS)


def test_a_missing_key_is_named() -> None:
    tree = base()
    del tree["training"]["steps"]
    with pytest.raises(ValueError, match=r"missing key training.steps"):
        validate(tree, "params.yaml")


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)training.steps = -1.*unknown key cluster.nodes = 4.*conf/base.yaml"):
        validate(base(training__steps=-1, cluster__nodes=4), "params.yaml")


def test_no_workers_means_this_process() -> None:
    assert validate(base(cluster__workers=0), "x").cluster.workers == 0


def test_a_micro_batch_above_a_worker_s_share_is_the_whole_share() -> None:
    assert validate(base(training__micro_batch=64), "x").training.micro_batch == 64


def test_parameters_do_not_change() -> None:
    params = validate(base(), "x")
    with pytest.raises(ValidationError, match=r"frozen"):
        params.project.seed = 3  # type: ignore[misc]


def test_load_params(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ValueError, match=r"params.yaml does not exist. .*scadm profile quickstart"):
        load_params(path)
    path.write_text("- a list\n")
    with pytest.raises(ValueError, match=r"holds list, expected sections"):
        load_params(path)
    path.write_text("project: {seed: 0\nmodel: 1\n")
    with pytest.raises(ValueError, match=r"params\.yaml is not valid YAML: (.|\n)*line 2"):
        load_params(path)
    path.write_text(yaml.safe_dump(BASE))
    assert load_params(path) == validate(BASE, "x")


def test_parameters_are_named_by_their_sections() -> None:
    tree = {"training": {"steps": 40, "betas": [0.9, 0.99]}, "seed": 0}
    assert flatten(tree) == {"training.steps": "40", "training.betas": "[0.9, 0.99]", "seed": "0"}
    assert flatten({}) == {}
