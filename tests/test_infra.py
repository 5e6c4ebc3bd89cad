"""The files of infra/: by their own schemas where one is at hand, and by what they say of each other.

No image is built and no cloud is reached. Ray's own code reads the cluster files, and starts EC2's nodes in a stand-in
for EC2; the notice of a spot node comes from a server on this machine.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from moto import mock_aws
from moto.server import ThreadedMotoServer
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
from ray.scripts.scripts import cli as ray_command

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
README = (INFRA / "README.md").read_text()
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def load(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text())


# The image


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments, continued lines joined and comments left out."""
    lines = [line for line in (INFRA / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage of the build, after its FROM."""
    found: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for word, rest in instructions():
        if word == "FROM":
            current = rest.split(" AS ")[1]
        found.setdefault(current, []).append((word, rest))
    return found[name][1:]


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


# The services


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return load("compose.yaml")["services"]


def test_compose_keeps_to_the_compose_specification() -> None:
    schema = json.loads(json.dumps(get_builtin_schema("vendor.compose-spec")))
    jsonschema.validate(load("compose.yaml"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"one": {"imagine": "postgres"}}}, schema)


def test_services_wait_for_healthy_ones(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "no", f"{other} must end for {name} to start"
    assert services["mlflow"]["depends_on"].keys() == {"postgres", "buckets"}


def test_ports_are_this_machine_s_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned_and_volumes_and_files_are_there(services: dict[str, Any]) -> None:
    volumes = load("compose.yaml")["volumes"]
    for name, service in services.items():
        if "build" in service:
            build = service["build"]
            assert (INFRA / build["context"]).resolve() == ROOT
            assert (ROOT / build["dockerfile"]).is_file()
            assert stage(build["target"])
        else:
            assert re.fullmatch(r"[\w/]+:\d+\.\d+", service["image"]), f"{name} has no fixed version"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in volumes or (INFRA / source).is_file(), mount


def test_no_secret_is_written_down_and_compose_asks_for_each() -> None:
    text = (INFRA / "compose.yaml").read_text()
    example = dict(
        line.split("=", 1) for line in (INFRA / ".env.example").read_text().splitlines() if re.match(r"\w+=", line)
    )
    asked = dict(re.findall(r"\$\{(\w+)(:[?-])", text))
    assert asked.keys() == example.keys()
    secret = {name for name in asked if re.search("PASSWORD|KEY", name)}
    assert len(secret) == 3
    assert all(asked[name] == ":?" and example[name] == "" for name in secret), "without one, compose does not start"
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{\w+:[?-][^}]+\}", text)), "each says what is missing"
    ignored = subprocess.run(["git", "check-ignore", "infra/.env"], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 0, "git would take the passwords"


def test_mlflow_s_command_is_one_that_mlflow_takes(services: dict[str, Any]) -> None:
    from mlflow.cli import cli as mlflow_command

    service = services["mlflow"]
    command, server, *arguments = service["command"]
    assert (command, server) == ("mlflow", "server")
    chosen = mlflow_command.commands["server"].make_context("server", list(arguments)).params
    assert chosen["serve_artifacts"]
    assert chosen["artifacts_destination"].startswith("s3://mlflow/")
    assert "mlflow" in services["buckets"]["command"], "its bucket is made"
    # SQLAlchemy 2.1 takes a bare postgresql:// for psycopg 3, which the image does not have.
    assert service["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://mlflow:$")
    assert any("psycopg2-binary==" in rest for _, rest in stage("mlflow"))
    assert "mlflow:*" in chosen["allowed_hosts"], "or the server refuses who calls it by its name in the network"


def test_programs_in_the_services_can_be_parsed(services: dict[str, Any]) -> None:
    test = services["mlflow"]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python", "-c"]
    ast.parse(test[3])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    yield address
    server.stop()


def test_making_the_buckets_again_changes_nothing(store: str, services: dict[str, Any]) -> None:
    names = services["buckets"]["command"][2:]
    program = ["python", str(INFRA / "buckets.py"), *names]
    first, second = (subprocess.run(program, check=True, capture_output=True, text=True).stdout for _ in range(2))
    assert first.count("made") == len(names) == 2
    assert second.count("is there") == 2
    # Beside those that other tests have made in this process's store.
    assert {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]} >= set(names)


def test_a_store_that_refuses_ends_the_making_of_buckets(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store + "/no/such/place")
    done = subprocess.run(["python", str(INFRA / "buckets.py"), "one"], capture_output=True, text=True)
    assert done.returncode != 0


# Kubernetes

# Fields of KubeRay 1.6's ray.io/v1, as its API reference lists them, that a misspelt one would be missing from.
CLUSTER_FIELDS = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"}
CLUSTER_FIELDS |= {"workerGroupSpecs"}
AUTOSCALER_FIELDS = {"version", "upscalingMode", "idleTimeoutSeconds", "resources", "securityContext"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_FIELDS = {"entrypoint", "submissionMode", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
JOB_FIELDS |= {"backoffLimit", "activeDeadlineSeconds", "submitterConfig", "submitterPodTemplate", "rayClusterSpec"}
CONTAINER_FIELDS = {"name", "image", "imagePullPolicy", "ports", "envFrom", "resources", "securityContext", "lifecycle"}
CONTAINER_FIELDS |= {"volumeMounts"}
POD_FIELDS = {
    "restartPolicy",
    "securityContext",
    "containers",
    "volumes",
    "tolerations",
    "terminationGracePeriodSeconds",
}


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return load("kuberay.yaml")


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return load("kuberay-job.yaml")


def pods(cluster: dict[str, Any], job: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups] + [job["spec"]["submitterPodTemplate"]["spec"]]


def test_the_job_brings_the_same_cluster(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_kubernetes_fields_are_spelt_as_in_the_api(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    spec = cluster["spec"]
    assert spec.keys() == CLUSTER_FIELDS
    assert spec["autoscalerOptions"].keys() <= AUTOSCALER_FIELDS
    assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
    assert all(group.keys() == GROUP_FIELDS for group in spec["workerGroupSpecs"])
    assert job["spec"].keys() == JOB_FIELDS
    for pod in pods(cluster, job):
        assert pod.keys() <= POD_FIELDS
        for container in pod["containers"]:
            assert container.keys() <= CONTAINER_FIELDS
            assert container["resources"].keys() == {"requests", "limits"}


def test_the_autoscaler_sees_a_head_without_cpus_and_gpu_workers(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert cluster["spec"]["autoscalerOptions"]["version"] == "v2"
    named = {**cluster, "metadata": {**cluster["metadata"], "namespace": "default"}}
    nodes = _derive_autoscaling_config_from_ray_cr(named)["available_node_types"]  # Ray's autoscaler reads it so
    assert nodes["headgroup"]["resources"]["CPU"] == 0
    assert nodes["gpu"]["resources"]["GPU"] == 1
    assert nodes["gpu"]["resources"]["CPU"] >= 5, "a worker's own and loader_threads of profile celebamask-hq"
    assert (nodes["gpu"]["min_workers"], nodes["gpu"]["max_workers"]) == (0, 8)
    assert cluster["spec"]["rayVersion"] == PINNED["ray"]


def test_the_cluster_asks_for_a_token_and_the_readme_makes_it(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "scadm-ray-token"}
    assert re.search(r"create secret generic scadm-ray-token --from-literal=auth_token=", README)
    named = {
        source["secretRef"]["name"] for pod in pods(cluster, job) for source in pod["containers"][0].get("envFrom", [])
    }
    assert named == {"scadm-storage"}
    maps = {volume["configMap"]["name"] for pod in pods(cluster, job) for volume in pod.get("volumes", [])}
    assert maps == {"scadm-params"}
    for name in named:
        assert f"create secret generic {name} " in README
    for name in maps:
        assert f"create configmap {name} --from-file=params.yaml --from-file=shared.json" in README


def test_pods_are_not_root_and_mount_what_they_have(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    tags = set(re.findall(r"-t (\S+)", (INFRA / "Dockerfile").read_text()))
    for pod in pods(cluster, job):
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == "1000:1000"
        (container,) = pod["containers"]
        assert container["image"] in tags, "the image is one that the Dockerfile says how to build"
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes


def test_the_job_runs_the_image_s_project_and_goes_when_done(job: dict[str, Any]) -> None:
    spec = job["spec"]
    project = next(rest for word, rest in reversed(stage("ray")) if word == "WORKDIR")
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"working_dir": project}
    mounts = spec["submitterPodTemplate"]["spec"]["containers"][0]["volumeMounts"]
    assert {mount["mountPath"] for mount in mounts} == {f"{project}/params.yaml", f"{project}/shared.json"}
    assert (ROOT / (spec["entrypoint"].removeprefix("python -m ").replace(".", "/") + ".py")).is_file()
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def test_a_pod_that_goes_tells_ray_in_time(cluster: dict[str, Any]) -> None:
    (group,) = cluster["spec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    shell, flag, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, flag) == ("/bin/bash", "-c")
    drain, _, wait = script.partition(" && ")
    address, ray, *arguments = shlex.split(drain)
    assert (address, ray) == ("RAY_ADDRESS=auto", "ray"), "without it, Ray starts a node of its own and drains that"
    chosen = drained(arguments)
    assert chosen["deadline_remaining_seconds"] < pod["terminationGracePeriodSeconds"]
    assert wait == f"sleep {chosen['deadline_remaining_seconds']}"


def drained(arguments: list[str]) -> dict[str, Any]:
    """What Ray's own command line makes of `ray ARGUMENTS`, which must be a drain-node for a preemption."""
    name, *options = arguments
    assert name == "drain-node"
    chosen = ray_command.commands[name].make_context(name, options).params
    assert chosen["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    return chosen


# EC2


def test_ray_takes_the_cluster_file() -> None:
    config = prepare_config(load("aws.yaml"))
    validate_config(config)
    config["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


def test_no_node_works_but_the_gpu_workers_and_all_want_the_token() -> None:
    config = load("aws.yaml")
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert (head["resources"], head["max_workers"]) == ({"CPU": 0}, 0)
    assert gpu["resources"]["GPU"] == 1
    starts = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][1]
    for start in starts:
        assert "RAY_AUTH_MODE=token" in start
        assert "RAY_USAGE_STATS_ENABLED=0" in start
    assert "--num-cpus=0" in starts[0]
    assert "--dashboard-host=127.0.0.1" in starts[0], "the dashboard is reached through the tunnel alone"
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    for remote, local in config["file_mounts"].items():
        assert local.startswith("~") or (ROOT / local).is_file(), remote
    watch = config["worker_start_ray_commands"][2]
    assert "spot_notice.sh" in watch
    assert "/home/ubuntu/scadm/spot_notice.sh" in config["file_mounts"]


def test_commands_of_the_nodes_are_shell() -> None:
    config = load("aws.yaml")
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[key]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.fixture
def amazon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stand-in for AWS in this process, with the stack of aws-iam.yaml, and a home that has a token."""
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    with mock_aws():
        boto3.client("cloudformation").create_stack(
            StackName="scadm",
            TemplateBody=(INFRA / "aws-iam.yaml").read_text(),
            Parameters=[{"ParameterKey": "BucketName", "ParameterValue": "a-bucket"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield


@pytest.mark.usefixtures("amazon")
def test_ray_starts_a_head_on_demand_and_workers_on_spot() -> None:
    config = prepare_config(load("aws.yaml"))
    hash_runtime_conf(config["file_mounts"], config["cluster_synced_files"], {})  # reads each file that is to be sent
    config = bootstrap_aws(config)
    # The stand-in takes any other market for spot too.
    assert config["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for kind in ("head", "gpu"):
        provider.create_node(config["available_node_types"][kind]["node_config"], {"ray-node-name": kind}, 1)

    ec2 = boto3.client("ec2")
    started = [node for reservation in ec2.describe_instances()["Reservations"] for node in reservation["Instances"]]
    head, worker = sorted(started, key=lambda node: node["InstanceType"], reverse=True)
    assert "InstanceLifecycle" not in head
    assert worker["InstanceLifecycle"] == "spot"
    assert head["IamInstanceProfile"]["Arn"].endswith("/scadm-head")
    assert worker["IamInstanceProfile"]["Arn"].endswith("/scadm-worker")
    assert all(node["MetadataOptions"]["HttpTokens"] == "required" for node in started)

    (group,) = [found for found in ec2.describe_security_groups()["SecurityGroups"] if found["GroupName"] != "default"]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)], "nothing but ssh is open"


def test_the_stack_is_one_that_cloudformation_takes() -> None:
    done = subprocess.run(["cfn-lint", "infra/aws-iam.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# The notice of a spot node


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service, second version: a token first, then a notice, or 404 while there is none."""

    notice: ClassVar[str | None] = None
    asked: ClassVar[int] = 0

    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/latest/api/token" else 404, "a-token")

    def do_GET(self) -> None:
        Metadata.asked += 1
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self._answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or Metadata.notice is None:
            self._answer(404, "")
        else:
            self._answer(200, Metadata.notice)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The watch at work beside a `ray` that writes down how it was called, and fails the first time."""
    Metadata.notice, Metadata.asked = None, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "ray").write_text(
        '#!/bin/bash\nprintf "%s\\n" "$RAY_ADDRESS" "$@" > "$0.$$"; mkdir "$0.busy" && exit 1; exit 0\n'
    )
    (tmp_path / "ray").chmod(0o755)
    program = subprocess.Popen(
        ["bash", str(INFRA / "spot_notice.sh")],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SPOT_METADATA": f"http://127.0.0.1:{server.server_address[1]}",
            "SPOT_POLL_S": "0.1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield program
    program.kill()
    program.wait()
    server.shutdown()


def test_a_notice_drains_the_node_with_the_time_that_is_left(watch: subprocess.Popen[str], tmp_path: Path) -> None:
    deadline = time.monotonic() + 20
    while Metadata.asked < 3:
        assert time.monotonic() < deadline and watch.poll() is None
        time.sleep(0.05)
    assert not list(tmp_path.glob("ray.*")), "nothing is drained before the notice"
    at = datetime.now(UTC) + timedelta(seconds=90)
    Metadata.notice = json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
    said, _ = watch.communicate(timeout=20)
    assert watch.returncode == 0, said
    calls = [path.read_text().splitlines() for path in tmp_path.glob("ray.[0-9]*")]
    assert len(calls) == 2, "a head that does not answer at once is asked again"
    for call in calls:
        assert call[0] == "auto", "without an address, Ray starts a node of its own and drains that"
        chosen = drained(call[1:])
        assert 80 <= chosen["deadline_remaining_seconds"] <= 90
        assert f"{at:%Y-%m-%dT%H:%M:%SZ}" in chosen["reason_message"]


@pytest.mark.parametrize("said", ['{"action": "terminate"}', '{"time": "soon"}', "<html>"])
def test_a_notice_that_cannot_be_read_ends_the_watch(watch: subprocess.Popen[str], tmp_path: Path, said: str) -> None:
    Metadata.notice = said
    log, _ = watch.communicate(timeout=20)
    assert watch.returncode == 1
    assert "no time that can be read" in log
    assert not list(tmp_path.glob("ray.*"))


# The commands of the README


def test_the_readme_s_commands_name_what_is_there() -> None:
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    for name in re.findall(r"infra/[\w.-]+", commands):
        assert (ROOT / name).exists() or name == "infra/.env", name
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert target in targets or target == "two-nodes", target
    for file in ("Dockerfile", "compose.yaml", "kuberay.yaml", "kuberay-job.yaml", "aws.yaml", "aws-iam.yaml"):
        assert f"`{file}`" in README or f"infra/{file}" in commands
