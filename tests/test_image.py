"""infra/Dockerfile: its instructions, what it copies and pins. No image is built."""

import re
import shlex
import subprocess

import pytest
from infra_files import PINNED, ROOT, instructions, load, stage
from packaging.specifiers import SpecifierSet
from packaging.version import Version


def test_every_instruction_of_the_dockerfile_is_one() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "CMD"}
    assert {word for word, _ in instructions()} <= known
    bases = [rest for word, rest in instructions() if word == "FROM"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+ AS base", bases[0]), "a base that is pinned, of the pinned Python"
    assert bases[1:] == ["base AS mlflow", "base AS ray"], "the last stage is what a build without --target makes"


def test_what_the_image_copies_is_there_and_is_sent() -> None:
    sent = [line.removeprefix("!").rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()]
    assert "*" in sent, "all but what is named is left out"
    sources = {
        source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1] if "--" not in source
    }
    assert {"scadm", "pipeline", "conf", "params.yaml", "dvc.yaml"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in sent, source


@pytest.mark.parametrize("name", ["mlflow", "ray"])
def test_images_hold_the_pinned_versions_and_no_root(name: str) -> None:
    steps = stage(name)
    installed = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert all("constraints.txt" in step or "--no-deps" in step for step in installed)
    assert [rest for word, rest in steps if word == "USER"] == ["1000:1000"], "Kubernetes must see that it is not root"
    assert [word for word, _ in steps].index("USER") > max(i for i, (word, _) in enumerate(steps) if word == "RUN")


def test_one_argument_chooses_cuda_or_cpu() -> None:
    assert ("ARG", "TORCH=cu130") in stage("ray")
    dependencies = next(rest for word, rest in stage("ray") if word == "RUN" and "extra-index-url" in rest)
    assert "https://download.pytorch.org/whl/${TORCH}" in dependencies
    assert "+" not in PINNED["torch"], "a local version would fit one of the two images only"
    plain, cuda = (Version(PINNED["torch"] + suffix) for suffix in ("", "+cu130"))
    assert plain < cuda and cuda in SpecifierSet(f"=={plain}"), "pip takes the build of the index that was asked for"
    assert [rest for word, rest in instructions() if word == "ARG"] == ["TORCH=cu130"]


def test_images_send_no_telemetry() -> None:
    said = " ".join(rest for word, rest in stage("base") if word == "ENV")
    for setting in (
        "DO_NOT_TRACK=1",
        "DVC_NO_ANALYTICS=1",
        "RAY_USAGE_STATS_ENABLED=0",
        "MLFLOW_DISABLE_TELEMETRY=true",
    ):
        assert setting in said


def test_the_dependencies_that_the_image_installs_are_the_project_s() -> None:
    step = next(rest for word, rest in stage("ray") if "tomllib" in rest)
    program = shlex.split(step.split(" > ")[0])
    listed = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert {"torch", "ray[train,data,default]", "mlflow", "dvc-s3"} <= set(listed)
    in_aws = next(line for line in load("aws.yaml")["setup_commands"] if "tomllib" in line)
    there = shlex.split(in_aws.split("-c ")[1].split(" > ")[0])[0]
    assert there.split() == program[-1].split(), "nodes on EC2 install the same"
