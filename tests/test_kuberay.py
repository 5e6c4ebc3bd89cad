"""infra/kuberay.yaml and kuberay-job.yaml: Kubernetes' and KubeRay's fields, and how Ray's autoscaler reads them."""

import re
import shlex
from typing import Any

import pytest
import yaml
from infra_files import INFRA, PINNED, README, ROOT, drained, load, stage
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from scadm import profiles
from scadm.app import doctor
from scadm.config import validate

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


def test_a_worker_s_memory_holds_the_paper_s_checkpoints(cluster: dict[str, Any]) -> None:
    paper = validate(yaml.safe_load(profiles.render("celebamask-hq", ROOT / "conf")), "celebamask-hq")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    for which in ("requests", "limits"):
        gib = int(container["resources"][which]["memory"].removesuffix("Gi"))
        assert 1.2 * doctor.memory_bytes(paper, trains_here=True) < gib * 2**30


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
