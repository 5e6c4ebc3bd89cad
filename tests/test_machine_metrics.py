"""Measurements of a node, beside a training and never in its way."""

import os
import threading
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from projects import wait_for

from scadm import tracking
from scadm.config import TrackingConfig
from scadm.tracking import Tracked, machine_metrics
from scadm.tracking.machine_metrics import gpu_metrics

ANSWER = "0, 87, 40000, 80000, 412.50\n1, [N/A], 0, 80000, [N/A]\n"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    home = tmp_path_factory.mktemp("home")
    config = TrackingConfig(uri="sqlite", experiment="sca-dm", machine_metrics_s=1)
    return tracking.open_run(config, home, "1", name="n", params={}, tags={}, dataset=None)


def measured(tracked: Tracked, node: str) -> dict[str, float]:
    metrics = MlflowClient(tracked.uri).get_run(tracked.run_id).data.metrics
    return {name.removeprefix(f"system/{node}/"): value for name, value in metrics.items() if f"/{node}/" in name}


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"machine-metrics", "mlflow"}


def test_each_node_has_measurements_of_its_own(tracked: Tracked) -> None:
    with machine_metrics(tracked, "10.0.0.1", 0.05), machine_metrics(tracked, "fe80::1", 0.05):
        wait_for("measurements", lambda: measured(tracked, "10.0.0.1") and measured(tracked, "fe80__1"), 30)
    found = measured(tracked, "10.0.0.1")
    assert 0 < found["system_memory_usage_percentage"] <= 100
    assert 0 < found["disk_usage_percentage"] <= 100
    assert {"cpu_utilization_percentage", "network_receive_megabytes"} <= found.keys()
    assert not threads(), "they end with the block"
    step = (
        MlflowClient(tracked.uri).get_metric_history(tracked.run_id, "system/10.0.0.1/disk_usage_percentage")[-1].step
    )
    assert abs(step - time.time()) < 60, "a restarted training goes on in the same curve"


def test_none_are_made_where_the_interval_is_zero(tracked: Tracked) -> None:
    with machine_metrics(tracked, "off", 0):
        assert not threads()
    assert not measured(tracked, "off")


def test_a_store_that_is_away_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with machine_metrics(Tracked("http://127.0.0.1:9", "nobody"), "a", 0.01):
        time.sleep(0.2)
    assert capsys.readouterr().out == "", "rank 0's logger says it"


def test_gpus_are_measured_where_there_are_some(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{ANSWER}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with machine_metrics(tracked, "gpus", 0.05):
        wait_for("measurements", lambda: bool(measured(tracked, "gpus")), 30)
    assert measured(tracked, "gpus")["gpu_0_utilization_percentage"] == 87


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo 'no table at all'"])
def test_a_driver_that_is_broken_is_said_at_most_once(
    script: str, tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with machine_metrics(tracked, "broken", 0.02):
        time.sleep(0.5)
    assert capsys.readouterr().out.count("warning: the GPUs of node broken") == ("table" in script)
    assert "cpu_utilization_percentage" in measured(tracked, "broken"), "all else is measured"


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    assert gpu_metrics(ANSWER) == {
        "gpu_0_utilization_percentage": 87,
        "gpu_0_memory_usage_megabytes": 40000 * 1.048576,
        "gpu_0_memory_usage_percentage": 50,
        "gpu_0_power_usage_watts": 412.5,
        "gpu_1_memory_usage_megabytes": 0,
        "gpu_1_memory_usage_percentage": 0,
    }
