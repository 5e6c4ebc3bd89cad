"""Local places are refused where a cluster has nodes that cannot reach them, before anything starts."""

import socket

import pytest
import ray

from scadm.cluster.session import require_reachable

HERE = {"Alive": True, "NodeManagerHostname": socket.gethostname()}
ELSEWHERE = {"Alive": True, "NodeManagerHostname": "gpu-7"}


def test_local_places_do_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [HERE, HERE, {**ELSEWHERE, "Alive": False}])
    require_reachable({"storage.root": "/data/runs/a", "tracking.uri": "sqlite:////data/mlflow.db"})


@pytest.mark.parametrize("place", ["/data/runs/a", "sqlite:////data/mlflow.db"])
def test_local_places_are_refused_on_several(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [HERE, ELSEWHERE])
    with pytest.raises(ValueError, match=f"gpu-7.*storage.root {place}"):
        require_reachable({"storage.root": place, "tracking.uri": "http://mlflow:5000"})
    require_reachable({"storage.root": "s3://bucket/runs", "tracking.uri": "http://mlflow:5000"})
