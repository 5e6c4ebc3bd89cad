"""Finding the weights of `training.init_from`: in folders, and in a real MLflow store."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow.tracking import MlflowClient

from scadm.files.checkpoint import digest_of, read_checkpoint, write_checkpoint
from scadm.files.store import Store
from scadm.initial import find
from scadm.registry import Registry
from scadm.tracking import Tracked, keep_weights

CONFIG = {"step": 3}


def checkpoint(folder: Path, value: float = 0.0) -> Path:
    write_checkpoint(Store(str(folder)), {"weights": {"a": torch.full((3,), value)}}, CONFIG)
    return folder


def value_of(place: str) -> float:
    tensors, config = read_checkpoint(Store(place), ["weights"])
    assert config["step"] == 3
    return tensors["weights"]["a"][0].item()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


# --- folders --------------------------------------------------------------------------------------------


@pytest.fixture
def search(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A storage root and a home; neither of them is the current folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    storage = tmp_path / "storage"

    def run(init_from: str) -> str:
        return find(init_from, tracking_uri="sqlite:///unused.db", storage_root=str(storage), home=home)

    yield SimpleNamespace(find=run, storage=storage, home=home, elsewhere=elsewhere)
    assert not (elsewhere / "unused.db").exists(), "a folder needs no MLflow"


def test_a_folder_anywhere(search: SimpleNamespace, tmp_path: Path) -> None:
    place = checkpoint(tmp_path / "given")
    assert search.find(str(place)) == search.find(f"{place}/") == str(place)
    assert search.find(place.as_uri()) == place.as_uri()


@pytest.mark.parametrize("root", ["storage", "home"])
def test_a_folder_below_the_storage_root_or_the_home(search: SimpleNamespace, root: str) -> None:
    place = checkpoint(getattr(search, root) / "imports" / "abc", 1.0)
    assert search.find("imports/abc") == str(place)
    run = checkpoint(getattr(search, root) / "runs" / "key" / "final", 2.0)
    assert search.find("runs/key") == search.find("runs/key/") == search.find("runs/key/final") == str(run)


def test_the_storage_root_comes_first_and_the_current_folder_never(search: SimpleNamespace) -> None:
    """Workers have other current folders."""
    checkpoint(search.elsewhere / "imports" / "abc", 3.0)
    with pytest.raises(ValueError, match="is a finished checkpoint"):
        search.find("imports/abc")
    home = checkpoint(search.home / "imports" / "abc", 2.0)
    assert search.find("imports/abc") == str(home)
    storage = checkpoint(search.storage / "imports" / "abc" / "final", 1.0)
    assert search.find("imports/abc") == str(storage)


def test_a_folder_that_is_none_or_not_finished_is_refused(search: SimpleNamespace) -> None:
    (checkpoint(search.storage / "runs" / "key" / "final") / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"training\.init_from is 'runs/key', but none of .*") as refused:
        search.find("runs/key")
    for place in (search.storage / "runs/key", search.storage / "runs/key/final", search.home / "runs/key/final"):
        assert str(place) in str(refused.value)
    assert "models:/NAME/VERSION or runs:/ID" in str(refused.value)
    with pytest.raises(ValueError, match=r"none of /nowhere, /nowhere/final is a finished"):
        search.find("/nowhere")


def test_a_local_folder_goes_to_a_remote_storage_root(home: Path, tmp_path: Path) -> None:
    place, storage = checkpoint(tmp_path / "given", 4.0), (tmp_path / "remote").as_uri()
    found = find(str(place), tracking_uri="", storage_root=storage, home=home)
    assert found.startswith(f"{storage}/initial/")
    assert value_of(found) == 4.0
    assert find(found, tracking_uri="", storage_root=storage, home=home) == found, "what is remote stays where it is"


# --- MLflow ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One SQLite store for all tests here: `run` keeps weights in it, `version` registers some."""
    tmp_path = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.create_experiment("sca-dm", artifact_location=str(tmp_path / "artifacts"))
    for name in ("autoencoder", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.txt").write_text(name)
    count = 0

    def run(value: float | None) -> str:
        nonlocal count
        count += 1
        run_id = client.create_run(experiment).info.run_id
        if value is not None:
            keep_weights(Tracked(uri, run_id), Store(str(checkpoint(tmp_path / f"weights-{count}", value))))
        return run_id

    def version(name: str, value: float) -> str:
        weights = checkpoint(tmp_path / f"{name}-{value}", value)
        made = Registry(uri, name).register(
            run(None),
            artifacts={"weights": str(weights), "autoencoder": str(tmp_path / "autoencoder")},
            code=[str(tmp_path / "code")],
            sampling={},
            key=str(value),
            test_split="",
            description="",
        )
        return made.uri

    yield SimpleNamespace(
        folder=tmp_path,
        uri=uri,
        client=client,
        run=run,
        version=version,
    )


Fetch = Callable[[str], str]


@pytest.fixture
def fetch(store: SimpleNamespace, tmp_path: Path) -> Fetch:
    """`find` with a storage root and a home of this test's own."""
    return lambda init_from: find(
        init_from, tracking_uri=store.uri, storage_root=str(tmp_path / "storage"), home=tmp_path
    )


def test_a_run_that_kept_its_weights(store: SimpleNamespace, fetch: Fetch, tmp_path: Path) -> None:
    first, second = store.run(1.0), store.run(2.0)
    place = fetch(f"runs:/{first}")
    assert value_of(place) == 1.0
    assert Path(place).parent == tmp_path / "storage" / "initial", "where all workers read it"
    other = fetch(f"runs:/{second}/weights")
    assert value_of(other) == 2.0
    assert value_of(place) == 1.0, "each has its place"
    assert digest_of(Store(place)) == digest_of(Store(str(checkpoint(tmp_path / "same", 1.0))))
    before = (Path(place) / "weights.safetensors").stat().st_mtime_ns
    assert fetch(f"runs:/{first}") == place
    assert (Path(place) / "weights.safetensors").stat().st_mtime_ns == before, "copied once"
    assert not list((tmp_path / ".work").iterdir()), "and what was fetched is gone"


def test_a_registered_version_and_an_alias(store: SimpleNamespace, fetch: Fetch) -> None:
    assert store.version("faces", 1.0) == "models:/faces/1"
    assert store.version("faces", 2.0) == "models:/faces/2"
    store.client.set_registered_model_alias("faces", "champion", "1")
    assert value_of(fetch("models:/faces/1")) == 1.0
    assert value_of(fetch("models:/faces/2")) == 2.0
    assert fetch("models:/faces@champion") == fetch("models:/faces/1")
    store.client.set_registered_model_alias("faces", "champion", "2")
    assert fetch("models:/faces@champion") == fetch("models:/faces/2"), "an alias is asked each time"


@pytest.mark.parametrize(
    "init_from", ["models:/known/7", "models:/others/1", "models:/known@champion", "runs:/0123456789abcdef", "models:/"]
)
def test_what_mlflow_does_not_know_is_refused(
    store: SimpleNamespace, fetch: Fetch, tmp_path: Path, init_from: str
) -> None:
    store.version("known", 1.0)
    with pytest.raises(ValueError, match=r"does not give: .* Expected models:/NAME/VERSION.*`make ui`") as refused:
        fetch(init_from)
    assert f"training.init_from is {init_from!r}, which MLflow at {store.uri}" in str(refused.value)
    assert not (tmp_path / "storage").exists()


def test_a_run_without_finished_weights_is_refused(store: SimpleNamespace, fetch: Fetch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not give"):
        fetch(f"runs:/{store.run(None)}")
    run_id = store.run(1.0)
    (kept,) = (store.folder / "artifacts").rglob(f"{run_id}/**/weights.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not a finished checkpoint"):
        fetch(f"runs:/{run_id}")
    data = bytearray(kept.read_bytes() + b"\0")
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.safetensors has sha256"):
        fetch(f"runs:/{run_id}")
