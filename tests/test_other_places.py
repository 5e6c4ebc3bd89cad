"""Nodes that join a cluster of a head alone, and see another store than the driver, which had nobody to ask before."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from projects import Project, wait_for
from ray_nodes import Nodes

pytestmark = pytest.mark.cluster
BUCKET = "faces"

_TRAIN = """
import sys
sys.path.insert(0, "tests")
from dataclasses import replace
from pathlib import Path
import tiny
from scadm.cluster.train import run_training
from scadm.files.manifest import Manifest
from scadm.tracking import Tracked
job = tiny.training_job(Path(sys.argv[1]))
Manifest(stage="latents").write(Path(job.shards))
cluster = tiny.CLUSTER.model_copy(update={"workers": 1, "max_failures": 1})
run_training(replace(job, run="s3://faces/runs/key"), cluster, lambda: Tracked("sqlite:///none.db", "1"), 0)
"""
_MAP = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
import tiny
from scadm.cluster.data import map_tasks
from scadm.files.sharing import Inputs, Spread
cluster = tiny.CLUSTER.model_copy(update={"data_workers": 1})
work = Path(sys.argv[1]) / "work"
spread = Spread(Inputs("s3://faces", sys.argv[1], {}), str(work), "s3://faces/work/test")
map_tasks(lambda: int, [{}], cluster=cluster, use_gpu=False, folder=work, what="test", unit="rows",
          weight=lambda _: 1, spread=spread)
"""


class Empty(http.server.BaseHTTPRequestHandler):
    """A store that holds nothing."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where another store answers than the one that whoever is started finds in its environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    empty = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=empty.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{empty.server_port}"
    empty.shutdown()
    empty.server_close()
    server.stop()


@pytest.mark.parametrize("program", [_TRAIN, _MAP])
def test_a_node_that_joins_later_and_sees_another_store_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, program: str
) -> None:
    client = boto3.client("s3")

    def tokens() -> list[str]:
        names = [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return [name for name in names if ".scadm-probe-" in name]

    project, log = Project.clone(tmp_path / "project"), tmp_path / "driver.log"
    with Nodes(project, tmp_path) as nodes:
        project.variables = nodes.client(project)
        driver = project.start(sys.executable, "-c", program, str(tmp_path), log=log)
        try:
            # From then on the nodes are asked, of which none has CPUs.
            wait_for("a token", lambda: bool(tokens()), 120)
            monkeypatch.setenv("AWS_ENDPOINT_URL", other)
            nodes.add()
            assert driver.wait(timeout=180) == 1
        except (AssertionError, subprocess.TimeoutExpired):
            driver.kill()
            print(log.read_text()[-5000:])
            raise
    last = log.read_text().splitlines()[-1]
    assert ") does not see storage.root s3://faces/" in last, log.read_text()[-5000:]
    assert "FileNotFoundError" in last and "expected .scadm-probe-" in last and "credentials of its own" in last
    assert tokens() == [], "it goes with the driver"
