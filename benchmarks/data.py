"""The data stages and the loader against their ceilings on this machine, with one process a core.

    python -m benchmarks.data                       # all: about 40 minutes on two cores, 6 GB of disk
    python -m benchmarks.data masks --faces 1000

masks    The ceiling: copies of a plain loop over the unpacked files, one a core and without Ray, each making tables of
         its share of the faces. Against it the stage's own tasks from the zip, through Ray. Both write the same tables,
         which is checked. Its start-up is reported apart: the rate counts from the first task's start.
latents  Two ceilings, with the project's autoencoder: bare encoders, one a core, over images that are in memory; and
         plain loops, one a core, that read, encode and write by webdataset's writer. Against them the stage.
vq-f4    The same with an autoencoder of the published size, on faces of 256 pixels.
loader   `webdataset.WebDataset` over the same shards, with as many workers, shuffling by shards and a buffer, against
         the loader, which shuffles all; and the time to the loader's first batch.

Each is run `--rounds` times, in turns; the table has the medians, and is kept in benchmarks/data.json and .md.
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from scadm import faces
from scadm.cluster.data import map_tasks
from scadm.config import Params, validate
from scadm.data.archive import FaceArchive
from scadm.data.latents import ShardMaker, shard_tasks
from scadm.data.parts import make_part, part_tasks
from scadm.data.synthetic import write_archive
from scadm.data.tables import Face, FaceTable, part_name, write_part
from scadm.files.manifest import Split
from scadm.progress import bar

CORES = os.cpu_count() or 1
IMAGE_SIDE, SIDE = 512, 256


def parameters(side: int) -> Params:
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["project"]["resolution"] = side
    tree["cluster"]["data_workers"] = CORES
    return validate(tree, "params.yaml")


class Timed:
    """A task that also says when it ran."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, **task: Any) -> tuple[float, float, Any]:
        start = time.time()
        result = self.function(**task)
        return start, time.time(), result


def through_ray(
    make: Callable[[], Callable[..., Any]], tasks: list[dict[str, Any]], count: int, folder: Path, side: int
) -> dict[str, float]:
    """Run a stage's tasks as the stage does: faces a second from the first task's start, and what lay before it."""
    begin = time.time()
    results = map_tasks(
        lambda: Timed(make()),
        tasks,
        cluster=parameters(side).cluster,
        use_gpu=False,
        folder=folder,
        what="tasks",
        unit="tasks",
        weight=lambda _: 1,
    )
    first, last = min(start for start, _, _ in results), max(end for _, end, _ in results)
    return {"rate": count / (last - first), "startup": first - begin}


def side_by_side(work: Callable[[int, Any], int]) -> float:
    """Units a second of `work(which, barrier)`, run once a core, all beginning at the barrier."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(CORES, mp_context=context) as pool:
        barrier = manager.Barrier(CORES + 1)
        futures = [pool.submit(work, which, barrier) for which in range(CORES)]
        barrier.wait(timeout=600)
        begin = time.perf_counter()
        count = sum(future.result() for future in futures)
        return count / (time.perf_counter() - begin)


# --- masks ----------------------------------------------------------------------------------------------


def plain_masks(which: int, barrier: Any, *, folder: Path, out: Path, ids: Sequence[str], per_part: int) -> int:
    """What people write first: open each file of a face, merge, make smaller, and write."""
    masks_folder = folder / "CelebAMask-HQ/CelebAMask-HQ-mask-anno"
    every = {path.name for path in masks_folder.glob("*/*.png")}
    mine = range(which * per_part, len(ids), CORES * per_part)
    barrier.wait()
    count = 0
    for first in mine:
        part = ids[first : first + per_part]
        rows = []
        for id in part:
            number = int(id)
            image = Image.open(folder / f"CelebAMask-HQ/CelebA-HQ-img/{number}.jpg").convert("RGB")
            image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            labels = None
            for k, name in enumerate(faces.LABELS):
                file = f"{id}_{name}.png"
                if file in every:
                    mask = np.asarray(
                        Image.open(folder / f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/{number // 2000}/{file}").convert(
                            "L"
                        )
                    )
                    if labels is None:
                        labels = np.zeros(mask.shape, np.uint8)
                    labels[mask > 0] = k
            assert labels is not None
            small = Image.fromarray(labels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            rows.append(Face(id, "train", np.asarray(image), np.asarray(small)))
        write_part(out / part_name(first, first + len(part) - 1), rows, SIDE)
        count += len(part)
    return count


def masks(archive_path: Path, folder: Path, rounds: int) -> dict[str, Any]:
    params = parameters(SIDE)
    archive = FaceArchive(archive_path)
    ids = archive.select()
    unpacked = folder / f"{archive_path.stem}-unpacked"
    if not unpacked.is_dir():
        with zipfile.ZipFile(archive_path) as packed:
            packed.extractall(folder / "unpacking")
        (folder / "unpacking").rename(unpacked)
    splits: dict[str, Split] = dict.fromkeys(ids, "train")
    found: dict[str, list[float]] = {"plain": [], "stage": [], "startup": []}
    for _ in range(rounds):
        plain, ours = fresh(folder / "plain"), fresh(folder / "ours")
        work = partial(plain_masks, folder=unpacked, out=plain, ids=ids, per_part=params.masks.rows_per_part)
        found["plain"].append(side_by_side(work))
        tasks = part_tasks(archive, splits, SIDE, params.masks, ours)
        stage = through_ray(lambda: make_part, tasks, len(ids), ours, SIDE)
        found["stage"].append(stage["rate"])
        found["startup"].append(stage["startup"])
        require_same_faces(plain, ours)
    return {"faces": len(ids), **{name: statistics.median(values) for name, values in found.items()}}


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def require_same_faces(one: Path, other: Path) -> None:
    a, b = FaceTable(one, None), FaceTable(other, None)
    assert a.ids == b.ids
    for first in range(0, len(a), 256):
        rows = range(first, min(first + 256, len(a)))
        for x, y in zip(a.batch(rows), b.batch(rows), strict=True):
            assert np.array_equal(x, y), f"faces {first} and on differ"


# --- latents --------------------------------------------------------------------------------------------


def bare_encoder(which: int, barrier: Any, *, tables: Path, autoencoder: Path, batch: int, passes: int) -> int:
    """Nothing but the encoder, one thread, over images in memory, in both orientations."""
    import torch

    from scadm.first_stage import load_first_stage
    from scadm.pixels import to_signed
    from scadm.precision import mixed_precision

    torch.set_num_threads(1)
    model, device = load_first_stage(autoencoder).model, torch.device("cpu")
    autocast = mixed_precision("auto", device)
    images, _ = FaceTable(tables, None).batch(range(batch))
    barrier.wait()
    with torch.inference_mode(), autocast():
        for _ in range(passes):
            for oriented in (images, images[:, :, ::-1]):
                model.encode(to_signed(oriented)).float().numpy().astype(np.float16)
    return batch * passes


def plain_latents(which: int, barrier: Any, *, tables: Path, autoencoder: Path, batch: int, out: Path) -> int:
    """What people write first: read, encode, and give it to webdataset's writer; one thread."""
    import torch
    import webdataset

    from scadm.first_stage import load_first_stage
    from scadm.pixels import to_signed
    from scadm.precision import mixed_precision

    torch.set_num_threads(1)
    model, device = load_first_stage(autoencoder).model, torch.device("cpu")
    autocast = mixed_precision("auto", device)
    table, count = FaceTable(tables, None), 0
    wds: Any = webdataset  # its names are not known to type checkers
    barrier.wait()
    with (
        torch.inference_mode(),
        autocast(),
        wds.ShardWriter(str(out / f"{which}-%06d.tar"), maxcount=256, verbose=0) as writer,
    ):
        for first in range(which * batch, len(table), CORES * batch):
            rows = range(first, min(first + batch, len(table)))
            images, labels, files = table.batch_with_files(rows)
            both = [model.encode(to_signed(o)).float().numpy() for o in (images, images[:, :, ::-1])]
            for row, latent, label, file in zip(rows, np.stack(both, 1).astype(np.float16), labels, files, strict=True):
                mask = io.BytesIO()
                Image.fromarray(label).save(mask, "PNG")
                sample = {"latent.npy": latent, "image.webp": file, "mask.png": mask.getvalue()}
                writer.write({"__key__": table.ids[row], **sample, "json": {"id": table.ids[row]}})
            count += len(rows)
    return count


def repeated(tables: Path, folder: Path, least: int = 16_000) -> tuple[Path, int]:
    """Faces several times under new ids: the folder of their tables, and their number."""
    fresh(folder)
    source, per_part = FaceTable(tables, None), parameters(64).masks.rows_per_part
    images, labels = source.batch(range(len(source)))
    count = len(source) * max(1, round(least / len(source)))
    for first in range(0, count, per_part):
        rows = range(first, min(first + per_part, count))
        some = (Face(f"{i:06d}", "train", images[i % len(source)], labels[i % len(source)]) for i in rows)
        write_part(folder / part_name(first, rows[-1]), some, source.resolution)
    return folder, count


def latents(tables: Path, count: int, autoencoder: Path, folder: Path, rounds: int, batch: int) -> dict[str, Any]:
    ids, side = FaceTable(tables, None).ids[:count], FaceTable(tables, None).resolution
    config = parameters(side).latents.model_copy(
        update={
            "precision": "auto",
            "flip": True,
            "batch_size": batch,
            "samples_per_shard": min(256, count // (4 * CORES)),
        }
    )
    splits: dict[Split, Sequence[str]] = {"train": ids, "validation": (), "test": ()}
    found: dict[str, list[float]] = {"bare": [], "plain": [], "stage": [], "startup": []}
    for _ in range(rounds):
        passes = count // CORES // batch
        work = partial(bare_encoder, tables=tables, autoencoder=autoencoder, batch=batch, passes=passes)
        found["bare"].append(side_by_side(work))
        plain = fresh(folder / "plain")
        work = partial(plain_latents, tables=tables, autoencoder=autoencoder, batch=batch, out=plain)
        found["plain"].append(side_by_side(work))
        out = fresh(folder / "shards")
        make = partial(ShardMaker, str(tables), str(autoencoder), str(out), config, use_gpu=False)
        stage = through_ray(make, shard_tasks(splits, config.samples_per_shard), count, out, side)
        found["stage"].append(stage["rate"])
        found["startup"].append(stage["startup"])
    return {"faces": count, **{name: statistics.median(values) for name, values in found.items()}}


def of_the_project(folder: Path, rounds: int) -> dict[str, Any]:
    """The project's faces and its trained autoencoder."""
    tables, count = repeated(Path("data/onehot").resolve(), folder / "tables")
    return latents(tables, count, Path("models/autoencoder").resolve(), folder, rounds, batch=32)


def of_vq_f4(archive: Path, folder: Path, rounds: int, count: int = 64) -> dict[str, Any]:
    """The published autoencoder's size, with weights as they are drawn, on faces of 256 pixels."""
    from diffusers.models.autoencoders.vq_model import VQModel

    from scadm.first_stage import import_vq_f4

    given, autoencoder, tables = (fresh(folder / name) for name in ("vq-given", "vq-f4", "tables-256"))
    VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        latent_channels=3,
        num_vq_embeddings=8192,
    ).save_pretrained(given)
    import_vq_f4(autoencoder, given)
    packed = FaceArchive(archive)
    splits: dict[str, Split] = dict.fromkeys(packed.select()[:count], "train")
    for task in part_tasks(packed, splits, SIDE, parameters(SIDE).masks, tables):
        make_part(**task)
    return latents(tables, count, autoencoder, folder, rounds, batch=8)


# --- loader ---------------------------------------------------------------------------------------------


def with_webdataset(shards: Path, workers: int, seconds: float) -> float:
    """Samples a second, decoded as the loader decodes them: both latents, the image, the mask."""
    import torch
    import webdataset

    wds: Any = webdataset  # its names are not known to type checkers

    names = sorted(str(path) for path in shards.glob("train-*.tar"))
    dataset = wds.WebDataset(names, shardshuffle=len(names), seed=0, nodesplitter=wds.split_by_node, empty_check=False)
    dataset = dataset.repeat().shuffle(1000).map(_decoded)
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=workers, collate_fn=_stacked)
    return _rate(iter(loader), 32, seconds)


def _decoded(sample: dict[str, bytes]) -> tuple[np.ndarray, ...]:
    """As the loader decodes it, and nothing else of it."""
    latent, image, mask = (io.BytesIO(sample[member]) for member in ("latent.npy", "image.webp", "mask.png"))
    return (
        np.load(latent),
        np.array(Image.open(image, formats=("WEBP",))),
        np.array(Image.open(mask, formats=("PNG",))),
    )


def _stacked(samples: list[tuple[np.ndarray, ...]]) -> list[Any]:
    import torch

    return [torch.from_numpy(np.stack(column)) for column in zip(*samples, strict=True)]


def with_ours(shards: Path, threads: int, seconds: float) -> dict[str, float]:
    from scadm.data.loader import Loader
    from scadm.data.shards import ShardReader

    begin = time.perf_counter()
    reader = ShardReader(str(shards), "train")
    loader = Loader(reader, seed=0, batch=32, micro_batch=32, rank=0, ranks=1, threads=threads)
    steps = loader.steps(0, 10**9)
    next(steps)
    first = time.perf_counter() - begin
    return {"rate": _rate(steps, 32, seconds), "first": first}


def _rate(batches: Any, size: int, seconds: float) -> float:
    for _ in range(8):  # workers start, caches fill
        next(batches)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += size
    return count / (time.perf_counter() - begin)


def loader(shards: Path, rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"plain": [], "stage": [], "startup": []}
    for _ in range(rounds):
        found["plain"].append(with_webdataset(shards, CORES, 10))
        ours = with_ours(shards, CORES, 10)
        found["stage"].append(ours["rate"])
        found["startup"].append(ours["first"])
    return {"faces": 0, **{name: statistics.median(values) for name, values in found.items()}}


# --- the table ------------------------------------------------------------------------------------------

MEANINGS = {
    "masks": "the stage against plain loops over unpacked files",
    "latents": "the stage, with the project's autoencoder",
    "vq-f4": "the stage, with VQ-f4 and 256 pixels",
    "loader": "against webdataset's",
}


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| | | bare encoders | plain loops | ours | of bare | of plain | start-up, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found.items():
        bare = (f"{row['bare']:.4g}", f"{row['stage'] / row['bare']:.2f}") if "bare" in row else ("", "")
        lines.append(
            f"| {name} | {MEANINGS[name]} | {bare[0]} | {row['plain']:.4g} | {row['stage']:.4g} | "
            f"{bare[1]} | {row['stage'] / row['plain']:.2f} | {row['startup']:.1f} |"
        )
    return "Faces a second.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], *MEANINGS], metavar="masks latents vq-f4 loader")
    parser.add_argument("--faces", type=int, default=3000, help="of 512 pixels, drawn for `masks` (default 3000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(".work/bench-data"), help="where its files are made")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/data"), help="the table, without .json or .md")
    asked = parser.parse_args()
    kept = asked.to.with_suffix(".json")
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    folder = asked.folder.resolve()
    for name in asked.what or MEANINGS:
        if name == "masks":
            found[name] = masks(drawn(folder, asked.faces), folder, asked.rounds)
        elif name == "latents":
            found[name] = of_the_project(folder, asked.rounds)
        elif name == "vq-f4":
            found[name] = of_vq_f4(drawn(folder, asked.faces), folder, asked.rounds)
        else:
            found[name] = loader(Path("data/shards").resolve(), asked.rounds)
        found = {known: found[known] for known in MEANINGS if known in found}
        kept.write_text(json.dumps(found, indent=1) + "\n")
        asked.to.with_suffix(".md").write_text(table(found))
    print(table(found))


def drawn(folder: Path, count: int) -> Path:
    """An archive of synthetic faces in the official layout, drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"faces-{count}.zip"
    if not path.is_file():
        with bar(count, "faces", "faces") as progress:
            write_archive(
                path,
                seed=0,
                count=count,
                image_size=IMAGE_SIDE,
                progress=lambda finished: progress.update(finished - progress.n),
            )
    return path


if __name__ == "__main__":
    main()
