"""Whether this machine and this project are ready for `dvc repro`, and for what is not right, the remedy.

A check is a small generator of findings about the current folder. It contacts nothing but the configured addresses,
and leaves nothing behind.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from scadm.app import machine
from scadm.config import Params, load_params
from scadm.data.fetch import is_address
from scadm.redaction import one_line, redacted
from scadm.stage import find_home, find_storage

_GB = 10**9
_INSTALL = "pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Finding:
    """What one check has found. A note does not stop `dvc repro`, a fault does; both come with a remedy."""

    mark: Literal["ok", "note", "fault"]
    what: str
    found: str
    remedy: str = ""

    def lines(self) -> tuple[str, ...]:
        """The mark, the rest of its line, and the remedy's line where there is one; without passwords of addresses."""
        first = " " * (7 - len(self.mark)) + f"{self.what:<12}{redacted(self.found)}"
        return self.mark, first, *([f"{'':<19}-> {redacted(self.remedy)}"] if self.remedy else [])


def _set(change: str) -> str:
    """How to change a parameter."""
    return f"set it in params.yaml, or for one run: `dvc exp run -S {change}`"


# --- the environment ------------------------------------------------------------------------------------


def _project() -> dict[str, Any]:
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]


def python() -> Iterator[Finding]:
    wanted = _project()["requires-python"]
    low, high = (tuple(map(int, found.split("."))) for found in re.findall(r"\d+\.\d+", wanted))
    here = f"{'.'.join(map(str, sys.version_info[:3]))}; pyproject.toml wants {wanted}"
    if low <= sys.version_info[:2] < high:
        yield Finding("ok", "python", here)
    else:
        remedy = "make the environment with another one: `rm -r .venv && make env PYTHON=python3.12`"
        yield Finding("fault", "python", here, remedy)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages() -> Iterator[Finding]:
    """Versions are looked up, not imported. One with a local suffix (2.13.0+cpu) is the pinned one, as pip sees it."""
    names = [re.split(r"[^\w.-]", line)[0] for line in _project()["dependencies"]]
    rows = (line.split("==") for line in Path("constraints.txt").read_text().splitlines() if "==" in line)
    pins = {_canonical(name): version.strip() for name, version in rows}
    missing, other = [], []
    for name in names:
        pin = pins.get(_canonical(name))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
        else:
            if pin is not None and version.partition("+")[0] != pin:
                other.append(f"{name} {version} (pinned: {pin})")
    found = [f"not installed: {', '.join(missing)}"] * bool(missing)
    found += [f"not as in constraints.txt: {', '.join(other)}"] * bool(other)
    if found:
        yield Finding("fault" if missing else "note", "packages", "; ".join(found), f"`{_INSTALL}`")
    else:
        yield Finding("ok", "packages", f"all {len(names)} are there, in the versions of constraints.txt")


_DVC_PACKAGES = {"s3": "-c constraints.txt -e '.[s3]'", "gs": "dvc-gs", "azure": "dvc-azure", "ssh": "dvc-ssh"}


def _answer(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def repository() -> Iterator[Finding]:
    """Git, DVC, and whether DVC has what its remotes need."""
    if shutil.which("git") is None:
        yield Finding("fault", "repository", "git is not installed", "install git: DVC keeps its history in it")
        return
    if _answer("git", "rev-parse", "--is-inside-work-tree").returncode != 0:
        remedy = "clone the project with git, or make it one: `git init && git add -A && git commit -m start`"
        yield Finding("fault", "repository", "this folder is not in a git repository", remedy)
        return
    listed = _answer(sys.executable, "-m", "dvc", "remote", "list")
    if not Path(".dvc").is_dir() or listed.returncode != 0:
        found = one_line(listed.stderr) or "this folder has no .dvc"
        yield Finding("fault", "repository", found, "run this from the project's folder, or make it one: `dvc init`")
        return
    urls = [line.split()[1] for line in listed.stdout.splitlines() if len(line.split()) > 1]
    lacking = False
    for kind in sorted({url.partition("://")[0] for url in urls} & set(_DVC_PACKAGES)):
        if importlib.util.find_spec(f"dvc_{kind}") is None:
            lacking = True
            found = f"a DVC remote is {kind}://, which `dvc push` and `dvc pull` cannot use without dvc-{kind}"
            yield Finding("note", "repository", found, f"`pip install {_DVC_PACKAGES[kind]}`")
    if not lacking:
        yield Finding("ok", "repository", f"git and DVC, {len(urls)} DVC remote(s)")


# --- what the parameters ask for ------------------------------------------------------------------------


def inputs(params: Params) -> Iterator[Finding]:
    """What is given by the user, not made by a stage. An address is not tried: the stage that needs the file does."""
    given = {"data.path": params.data.path}
    if params.autoencoder.kind == "vq-f4":
        given["autoencoder.weights"] = params.autoencoder.weights or ""
    else:
        given["autoencoder.extra_images"] = params.autoencoder.extra_images
    if params.parser.kind != "small":
        given["parser.weights"] = params.parser.weights or ""
    metrics = {"metrics.lpips": params.metrics.lpips, "metrics.inception": params.metrics.inception}
    given |= {key: named for key, named in metrics.items() if named is not None}
    fetched = {key: named for key, named in given.items() if is_address(named)}
    paths = {key: named for key, named in given.items() if key not in fetched}
    if params.data.addresses:
        fetched = {"data.addresses": " or ".join(params.data.addresses)} | fetched
    gone = [f"{key} {path or 'null'}" for key, path in paths.items() if not path or not Path(path).exists()]
    if gone:
        remedy = "put it there, or name in params.yaml where it is; `scadm profile quickstart` needs none"
        yield Finding("fault", "inputs", f"not there: {', '.join(gone)}", remedy)
    lacking = list(_lacking(params))
    yield from lacking
    if not gone and not lacking:
        from_addresses = [f"{key} from {named}" for key, named in fetched.items()]
        yield Finding("ok", "inputs", ", ".join([f"{key} {path}" for key, path in paths.items()] + from_addresses))


def _lacking(params: Params) -> Iterator[Finding]:
    """Packages of extras that the parameters ask for."""
    wanted = (
        ("parser.kind is facer", params.parser.kind == "facer", "facer", "faces"),
        ("metrics.lpips names a network", params.metrics.lpips is not None, "torchvision", "metrics"),
        ("metrics.inception names a network", params.metrics.inception is not None, "torch_fidelity", "metrics"),
    )
    for what, asked, package, extra in wanted:
        if asked and importlib.util.find_spec(package) is None:
            remedy = f"`pip install -c constraints.txt -e '.[{extra}]'`"
            yield Finding("fault", "inputs", f"{what}, which needs {package}, and that is not installed", remedy)


def _weights(params: Params) -> int:
    """Parameters of the network that is trained; counted on the meta device, where nothing is allocated."""
    import torch

    from scadm.models.scadm import SCADM

    with torch.device("meta"):
        model = SCADM(params.model, params.autoencoder.latent_channels)
    return sum(parameter.numel() for parameter in model.parameters())


def data_bytes(params: Params) -> int:
    """Disk for `data` and DVC's cache. Measured: tables and shards take about 5 bytes a pixel, all orientations."""
    path, side = Path(params.data.path), params.project.resolution
    if params.data.source == "synthetic":
        faces, raw = params.data.synthetic.count, params.data.synthetic.count * params.data.synthetic.image_size**2
    elif params.data.source == "folder":
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        faces, raw = len(sizes) // 2, sum(sizes)  # an image and a mask for each
    else:
        # As many as CelebAMask-HQ has, and its size, unless the archive is there and says otherwise.
        raw = path.stat().st_size if path.is_file() and not params.data.addresses else 3 * _GB
        faces = min(30_000, raw // 50_000)  # its images and masks take about 90 kB a face
    return 2 * (raw + 5 * faces * side**2)  # twice: the cache holds copies where the file system cannot link


def storage_bytes(params: Params) -> int:
    """Disk for the checkpoints of one run, and its weights in MLflow and in the registry."""
    checkpoint = 16 * _weights(params)  # float32: the weight, its average, and AdamW's two moments
    final = 4 * _weights(params)
    # One checkpoint more is written before the oldest goes; the final weights lie in three places.
    return (params.monitoring.keep_checkpoints + 1) * checkpoint + 3 * final


def memory_bytes(params: Params, trains_here: bool) -> int:
    """Free memory for a run: 4 GB as README says, of which Ray's object store is a part, and what training adds."""
    from scadm.training.estimate import host_bytes

    workers = max(params.cluster.workers, 1)
    training = host_bytes(_weights(params), workers, params.cluster.use_gpu) if trains_here else 0
    return 3_400_000_000 + params.cluster.object_store_mb * 10**6 + training


def _enough(what: str, found: str, free: int, need: int, remedy: str) -> Finding:
    """The needs are estimates, and a finished stage needs nothing more: a little less than the need is a note."""
    text = f"{free / _GB:.1f} GB free {found}; a run from the start needs about {need / _GB:.1f} GB"
    if free >= need:
        return Finding("ok", what, text)
    return Finding("fault" if free < need / 2 else "note", what, text, remedy)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def disk(params: Params) -> Iterator[Finding]:
    """One finding for each file system that `data`, `.work` and a local storage root lie on."""
    workspace, home = Path.cwd(), find_home(Path.cwd())
    root = find_storage(params.storage.root, home)
    # 2 GB: what Ray spills and logs, the reports, the environment of the next version, some more runs.
    needs = [(workspace / "data", 2 * _GB + data_bytes(params)), (home / ".work", 0)]
    if "://" not in root:
        needs.append((Path(root), storage_bytes(params)))
    systems: dict[int, list[tuple[Path, int]]] = {}
    for place, need in needs:
        systems.setdefault(_existing(place).stat().st_dev, []).append((place, need))
    for group in systems.values():
        places, need = ", ".join(_short(place) for place, _ in group), sum(need for _, need in group)
        free = shutil.disk_usage(_existing(group[0][0])).free
        remedy = "free some space; `dvc gc -w` drops from DVC's cache what params.yaml as it is now does not use"
        yield _enough("disk", f"for {places}", free, need, remedy)


def _trains_here(params: Params) -> bool:
    from scadm.cluster.session import is_remote

    return not is_remote(params.cluster)


def memory(params: Params) -> Iterator[Finding]:
    free, need = machine.free_memory(list(machine.cgroups())), memory_bytes(params, _trains_here(params))
    remedy = "end other programs or raise the container's limit; fewer cluster.workers and a smaller "
    remedy += "training.micro_batch take less (`scadm estimate`)"
    yield _enough("memory", "for this process", free, need, remedy)


def _fitting_workers(params: Params, most: int) -> int:
    """The largest number of workers, at most `most`, among which a batch can be shared."""
    batch, micro = params.training.batch_size, params.training.micro_batch
    return max(
        (n for n in range(1, most + 1) if batch % n == 0 and (batch // n) % min(micro, batch // n) == 0), default=1
    )


def cores(params: Params) -> Iterator[Finding]:
    found, workers = machine.cores(list(machine.cgroups())), params.cluster.workers
    if not _trains_here(params):
        yield Finding("ok", "cores", f"{found} here; the {workers} training workers run on the cluster")
    elif workers > found:
        fit = _fitting_workers(params, found)
        text = f"{found} for cluster.workers {workers}: the workers will wait for one another"
        yield Finding("note", "cores", text, _set(f"cluster.workers={fit}"))
    else:
        yield Finding("ok", "cores", f"{found} for cluster.workers {workers}")


# --- GPUs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpus:
    """What torch sees, and what there is that it may not see."""

    cards: tuple[str, ...]
    version: str
    for_gpus: bool
    """Whether torch is a build for GPUs at all."""
    driver: bool
    """Whether the machine has NVIDIA's driver."""
    said: str = ""
    """Torch's reason for seeing none, such as a driver that is too old."""


def _look_for_gpus() -> Gpus:
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    all_properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return Gpus(
        cards=tuple(f"{found.name}, {found.total_memory / _GB:.0f} GB" for found in all_properties),
        version=str(torch.__version__),
        for_gpus=torch.version.cuda is not None or torch.version.hip is not None,
        driver=shutil.which("nvidia-smi") is not None,
        said=one_line("; ".join(str(warning.message) for warning in said)),
    )


def judge_gpus(found: Gpus, params: Params, trains_here: bool) -> Finding:
    """A cluster's GPUs are counted where the cluster is tried; here only those of this machine."""
    use, workers = params.cluster.use_gpu, max(params.cluster.workers, 1)
    cards, fewer = "; ".join(found.cards), f"cluster.workers={_fitting_workers(params, len(found.cards))}"
    if use and not trains_here:
        return Finding("ok", "gpu", f"{cards or 'none here'}; training uses the cluster's (see ray)")
    if not found.cards:
        text = f"none that torch {found.version} can use; cluster.use_gpu is {str(use).lower()}"
        mark = "fault" if use else "note"
        if found.driver and not found.for_gpus:
            # --force-reinstall: to pip, 2.13.0+cpu is the pinned 2.13.0 already.
            remedy = "`pip install -c constraints.txt --force-reinstall torch` (PyPI's torch for Linux has CUDA)"
            return Finding(mark, "gpu", f"{text}; nvidia-smi is here, but this torch is a build for CPUs", remedy)
        if found.driver:
            remedy = "`nvidia-smi` must list a card (a container needs `--gpus all`) and a driver new enough for torch"
            return Finding(mark, "gpu", f"{text}; nvidia-smi is here. {found.said}".strip(), remedy)
        if use:
            return Finding("fault", "gpu", text, _set("cluster.use_gpu=false"))
        return Finding("ok", "gpu", text)
    if not use:
        change = "cluster.use_gpu=true" + (f" -S {fewer}" if workers > len(found.cards) else "")
        return Finding("note", "gpu", f"{cards}; cluster.use_gpu is false", _set(change))
    if workers > len(found.cards):
        text = f"{cards}; cluster.workers {workers} wants one each, and the training would wait for ever"
        return Finding("fault", "gpu", text, _set(fewer))
    return Finding("ok", "gpu", f"{cards}; cluster.use_gpu is true")


def gpu(params: Params) -> Iterator[Finding]:
    yield judge_gpus(_look_for_gpus(), params, _trains_here(params))


# --- the services ---------------------------------------------------------------------------------------


def _write_and_remove(root: str) -> None:
    """As checkpoints are written. Raises OSError, or ValueError for a kind of address that is not known."""
    from scadm.files.store import Store

    store = Store(f"{root}/.scadm-doctor-{uuid.uuid4().hex}")
    try:
        store.write("probe", b"probe")
        if store.read("probe") != b"probe":
            raise OSError(f"{store.root}/probe does not hold what was written into it")
    except OSError:
        with suppress(OSError):  # whatever there is of it; the first error is the one to tell
            store.delete()
        raise
    store.delete()


def storage(params: Params) -> Iterator[Finding]:
    root = find_storage(params.storage.root, find_home(Path.cwd()))
    local = "://" not in root
    # A folder that does not exist yet is made by the first run; that much can be tried above it.
    place = str(_existing(Path(root))) if local else root
    try:
        _write_and_remove(place)
    except (OSError, ValueError) as error:
        if local:
            remedy = f"let {place} be a folder that you may write to, or name another one: storage.root in params.yaml"
        elif "Unrecognized filesystem" in str(error):
            remedy = "storage.root in params.yaml: a folder, or an address that begins with s3://, gs:// or abfs://"
        else:
            remedy = "check that storage.root in params.yaml is s3://bucket/path without ?options, that "
            remedy += "the bucket exists, and AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL and the like"
        yield Finding("fault", "storage", f"cannot write to {root}: {one_line(error)}", remedy)
    else:
        yield Finding("ok", "storage", f"{root}: wrote, read and removed a file")


_SECONDS_FOR_MLFLOW = 5


def mlflow(params: Params) -> Iterator[Finding]:
    from scadm import tracking

    home = find_home(Path.cwd())
    file = tracking.store_file(params.tracking, home)
    where = str(file or params.tracking.uri)
    try:
        if file is not None:
            _write_and_remove(str(_existing(file.parent)))  # SQLite writes its journal beside the file
        if file is not None and not file.exists():
            found = "no store yet; the first run makes it"
        else:
            found = tracking.survey(params.tracking, home, _SECONDS_FOR_MLFLOW)
    except Exception as error:  # whatever the store or the network does
        if file is None:
            remedy = "start the server (`mlflow server --host 127.0.0.1 --port 5000`), or correct tracking.uri in "
            remedy += "params.yaml; `sqlite` needs no server"
        else:
            remedy = f"let {file.parent} be a folder that you may write to; for a store of an older MLflow, "
            remedy += f"`mlflow db upgrade sqlite:///{file}`; move a damaged one away"
        yield Finding("fault", "mlflow", f"{where}: {one_line(error)}", remedy)
    else:
        yield Finding("ok", "mlflow", f"{where}: {found}")


_SECONDS_FOR_RAY = 60  # a start takes 5 to 10; a cluster's first task also waits for the code to be sent


def ray(params: Params, seconds: float = _SECONDS_FOR_RAY) -> Iterator[Finding]:
    from scadm.cluster.probe import Lacking, probe
    from scadm.tracking import store_file

    home = find_home(Path.cwd())
    file = store_file(params.tracking, home)
    places = {
        "storage.root": find_storage(params.storage.root, home),
        "tracking.uri": params.tracking.uri if file is None else f"sqlite:///{file}",
    }
    try:
        yield Finding("ok", "ray", probe(params.cluster, places, seconds))
    except Lacking as error:
        text = f"the cluster answers, but {one_line(error)}"
        yield Finding("fault", "ray", text, f"let nodes join it, or lower cluster.workers: {_set('cluster.workers=1')}")
    except OSError as error:
        if _trains_here(params):
            remedy = "free memory (and /dev/shm, for cluster.object_store_mb) and try again; Ray's logs are in "
            remedy += "/tmp/ray/session_latest/logs"
        else:
            remedy = "start it (`ray start --head`), correct cluster.address (http://HOST:8265) or RAY_ADDRESS, or set "
            remedy += "the one to null and unset the other for a private Ray; a cluster with a token needs "
            remedy += "RAY_AUTH_MODE=token and the same token here"
        yield Finding("fault", "ray", one_line(error), remedy)


# --- all of it ------------------------------------------------------------------------------------------

ENVIRONMENT: tuple[Callable[[], Iterable[Finding]], ...] = (python, packages, repository)
CONFIGURED: tuple[Callable[[Params], Iterable[Finding]], ...] = (
    *(inputs, disk, memory, cores, gpu, storage, mlflow),
    ray,  # last, because it takes seconds
)


def guarded(what: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """A check that fails itself is a fault, not the end of all checks."""
    try:
        yield from check()
    except Exception as error:
        remedy = f"run this from the project's folder, with what it needs installed: `{_INSTALL}`. If that is so, the "
        remedy += "check is wrong: report this line"
        yield Finding("fault", what, f"the check failed: {type(error).__name__}: {one_line(error)}", remedy)


def examine() -> Iterator[Finding]:
    """All findings about the current folder and this machine, each as soon as it is made."""
    for check in ENVIRONMENT:
        yield from guarded(check.__name__, check)
    try:
        params = load_params()
    except (ValueError, OSError) as error:
        remedy = "mend it, or `scadm profile quickstart` writes it anew (git keeps what you had committed); then run "
        remedy += "`scadm doctor` again for all that depends on it"
        yield Finding("fault", "parameters", one_line(error), remedy)
        return
    yield Finding("ok", "parameters", "params.yaml is valid")
    for check in CONFIGURED:
        yield from guarded(check.__name__, lambda check=check: check(params))
