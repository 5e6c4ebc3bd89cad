"""The stage `masks` at full size: its memory and rate with 30,000 faces, and what random kills leave behind.

    python -m benchmarks.data_scale                      # all of it: about 40 minutes on two cores, 20 GB of disk
    python -m benchmarks.data_scale kills --faces 600

memory   The real stage, `python -m pipeline.masks`, on --faces faces of 512 pixels and on ten times as many: rate of
         the whole stage from the process's start to its end, and the most memory that its processes take together
         (shared memory counted once). The larger archive holds the smaller one's faces ten times under other ids.
kills    The stage on --faces faces is killed with all its processes at three random moments and started again; its
         tables must have the bytes of those that were made in one go.
first    The loader on 30,000 samples: seconds from opening the index to the first batch.

The result is kept in benchmarks/data_scale.json.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.data import drawn, fresh
from scadm.progress import bar

ROOT = Path(__file__).resolve().parent.parent
SIDE = 256
FULL = 30_000
KILLS = 3


def project(folder: Path, archive: Path) -> Path:
    """A folder in which the stages run on an archive: this code, its own parameters and outs."""
    fresh(folder)
    (folder / ".dvc").mkdir()
    for name in ("scadm", "pipeline", "conf", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["project"]["resolution"] = SIDE
    tree["data"] |= {"source": "celebamask-hq", "path": str(archive)}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    stage(folder, "download", lambda _: None)
    return folder


def stage(folder: Path, name: str, watch: Callable[[psutil.Process], None]) -> float:
    """Run a stage's program to its end, `watch` being called ten times a second; returns its seconds."""
    begin = time.perf_counter()
    with start(folder, name) as process:
        found = psutil.Process(process.pid)
        while process.poll() is None:
            watch(found)
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}: see {folder / 'log'}")
    return time.perf_counter() - begin


def start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    env = os.environ | {"PYTHONPATH": str(folder)}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{name}"],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class Peak:
    """The most memory that a process and all its descendants take together, shared pages counted once."""

    def __init__(self) -> None:
        self.bytes, self.driver = 0, 0
        self._next = 0.0

    def __call__(self, process: psutil.Process) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1  # reading it costs tens of milliseconds
        total = 0
        for each in (process, *descendants(process)):
            try:
                taken = each.memory_full_info().pss
            except psutil.Error:
                continue  # gone
            total += taken
            if each.pid == process.pid:
                self.driver = max(self.driver, taken)
        self.bytes = max(self.bytes, total)


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def repeated(source: Path, target: Path, times: int) -> Path:
    """An archive with the faces of another one several times, under ids that go on."""
    if target.is_file():
        return target
    unfinished = target.with_suffix(".unfinished")
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(unfinished, "w") as write, bar(times, "faces", "rounds") as b:
        every = [(name, read.read(name)) for name in read.namelist() if name.endswith((".png", ".jpg"))]
        count = sum(name.endswith(".jpg") for name, _ in every)
        for round_ in range(times):
            for name, data in every:
                path = Path(name)
                number, _, part = path.stem.partition("_")
                new = int(number) + round_ * count
                if part:
                    folder = path.parent.parent / str(new // 2000)
                    write.writestr(str(folder / f"{new:05d}_{part}.png"), data)
                else:
                    write.writestr(str(path.with_name(f"{new}.jpg")), data)
            b.update(1)
    unfinished.rename(target)
    return target


def memory(folder: Path, faces: int) -> dict[str, Any]:
    small = drawn(folder, faces)
    found = {}
    for archive, count in ((small, faces), (repeated(small, folder / f"faces-{10 * faces}.zip", 10), 10 * faces)):
        place, peak = project(folder / "project", archive), Peak()
        seconds = stage(place, "masks", peak)
        made = json.loads((place / "data/onehot/manifest.json").read_text())["counts"]["faces"]
        assert made == count, f"{made} faces came out of {count}"
        found[str(count)] = {
            "seconds": seconds,
            "faces_a_second": count / seconds,
            "peak_bytes": peak.bytes,
            "peak_bytes_of_the_driver": peak.driver,
        }
    return found


def tables(place: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.glob("data/onehot/*.parquet")}


def kills(folder: Path, faces: int) -> dict[str, Any]:
    archive = drawn(folder, faces)
    place = project(folder / "project", archive)
    seconds = stage(place, "masks", lambda _: None)
    whole = tables(place)
    place = project(folder / "project", archive)
    rng, kept = random.Random(0), []
    for _ in range(KILLS):
        process = start(place, "masks")
        found, end = psutil.Process(process.pid), time.monotonic() + rng.uniform(0.25, 0.45) * seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        if process.poll() is not None:
            break  # what was kept made it faster than the moment chosen
        every = [found, *descendants(found)]
        for each in every:
            try:
                os.kill(each.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        psutil.wait_procs(every, timeout=30)
        kept.append(len(list(place.glob(".work/masks-*/*.parquet"))))
    if not (place / "data/onehot").is_dir():
        stage(place, "masks", lambda _: None)
    assert tables(place) == whole, "the tables differ from those made in one go"
    return {"faces": faces, "parts": len(whole), "kills": len(kept), "parts_kept_at_each": kept, "identical": True}


def first(folder: Path, batch: int = 32) -> dict[str, Any]:
    """Of shards like the project's, whose samples are repeated."""
    from scadm.data.loader import Loader
    from scadm.data.shards import INDEX, Encoded, Latents, ShardReader, describe_shard, encode, write_index, write_shard

    shards = folder / "shards-full"
    if not (shards / INDEX).is_file():
        fresh(shards)
        reader = ShardReader("data/shards", "train")
        members = [encode(reader[i]).members for i in range(min(len(reader), 1000))]
        entries = []
        for begin in range(0, FULL, 1000):
            path = shards / f"train-{begin:06d}-{begin + 999:06d}.tar"
            some = (Encoded(f"{begin + i:06d}", members[(begin + i) % len(members)]) for i in range(1000))
            write_shard(path, "train", some)
            entries.append(describe_shard(path))
        write_index(shards / INDEX, entries, Latents("repeated", (0.0,), (1.0,)))
    seconds = []
    for seed in range(5):
        begin = time.perf_counter()
        reader = ShardReader(str(shards), "train")
        loader = Loader(reader, seed=seed, batch=batch, micro_batch=batch, rank=0, ranks=1, threads=os.cpu_count() or 1)
        steps = loader.steps(0, 10**6)
        next(steps)
        seconds.append(time.perf_counter() - begin)
        del steps
    return {"samples": len(reader), "batch": batch, "seconds": sorted(seconds)[2], "slowest": max(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], "memory", "kills", "first"], metavar="memory kills first")
    parser.add_argument("--faces", type=int, default=3000, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(".work/bench-data"), help="where its files are made")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/data_scale.json"), help="(%(default)s)")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    kept: dict[str, Any] = json.loads(asked.to.read_text()) if asked.to.is_file() else {}
    for name in asked.what or ("memory", "kills", "first"):
        measure = {"memory": memory, "kills": kills}
        kept[name] = measure[name](folder, asked.faces) if name in measure else first(folder)
        asked.to.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps({name: kept[name]}, indent=1), flush=True)
    shutil.rmtree(folder / "project", ignore_errors=True)


if __name__ == "__main__":
    main()
