"""infra/aws.yaml and aws-iam.yaml: Ray's own code reads them, and starts nodes in a stand-in for EC2."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import jsonschema
import pytest
from infra_files import INFRA, ROOT, load
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config


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
