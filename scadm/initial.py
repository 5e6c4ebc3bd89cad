"""`training.init_from`: finding the weights that a training starts from, wherever they are kept."""

import tempfile
from pathlib import Path

from scadm import registry, tracking
from scadm.files.checkpoint import copy_checkpoint, digest_of, is_complete
from scadm.files.store import Store


def find(init_from: str, *, tracking_uri: str, storage_root: str, home: Path) -> str:
    """Absolute path or URI of a finished checkpoint, where every worker can read it.

    `init_from` is models:/NAME/VERSION or models:/NAME@ALIAS (a registered version), runs:/ID (an MLflow run that kept
    its weights), or the folder of a checkpoint or of a run that has one: absolute, or below the storage root or the
    home. What comes from MLflow, or from this machine where the storage root is remote, is copied to the storage root.
    Raises ValueError where there is no such checkpoint.
    """
    if not init_from.startswith(("models:/", "runs:/")):
        place = _folder(init_from, storage_root, home)
        away = "://" in storage_root and "://" not in place
        return _copied(Store(place), storage_root) if away else place
    work = home / ".work"
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="initial-") as folder:
        try:
            if init_from.startswith("models:/"):
                fetched = registry.fetch_weights(tracking_uri, init_from, Path(folder))
            else:
                run = tracking.Tracked(tracking_uri, init_from.removeprefix("runs:/").split("/")[0])
                fetched = tracking.fetch_artifacts(run, "weights", Path(folder))
            return _copied(Store(str(fetched)), storage_root)
        except Exception as error:  # an unknown name, version or run, no weights, no server: MLflow has a word for each
            raise ValueError(
                f"training.init_from is {init_from!r}, which MLflow at {tracking_uri} does not give: {error}. Expected "
                "models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID or the folder of a checkpoint; `make ui` shows "
                "which there are."
            ) from None


def _folder(init_from: str, storage_root: str, home: Path) -> str:
    absolute = init_from.startswith("/") or "://" in init_from
    roots = [""] if absolute else [f"{storage_root}/", f"{home}/"]
    places = [f"{root}{init_from.rstrip('/')}{end}" for root in roots for end in ("", "/final")]
    for place in places:
        if is_complete(Store(place)):
            return place
    raise ValueError(
        f"training.init_from is {init_from!r}, but none of {', '.join(places)} is a finished checkpoint. Expected the "
        "folder of one, models:/NAME/VERSION or runs:/ID."
    )


def _copied(source: Store, storage_root: str) -> str:
    if not is_complete(source):
        raise ValueError(f"{source.root} is not a finished checkpoint")
    target = Store(f"{storage_root}/initial/{digest_of(source)[:16]}")
    if not is_complete(target):
        copy_checkpoint(source, target)
    return target.root
