"""infra/compose.yaml by the Compose specification; its programs by themselves, with moto as the store."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import boto3
import jsonschema
import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from infra_files import INFRA, ROOT, load, stage
from moto.server import ThreadedMotoServer


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
