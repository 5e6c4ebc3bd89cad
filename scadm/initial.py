"""`training.init_from`: finding the weights that a training starts from, wherever they are kept."""

from pathlib import Path

from scadm import registry, tracking
from scadm.checkpoint import Store, copy_checkpoint, digest_of, is_complete


def find(init_from: str, *, tracking_uri: str, storage_root: str, home: Path) -> str:
    """Path or URI of a finished checkpoint, where every worker can read it.

    `init_from` is models:/NAME/VERSION or models:/NAME@ALIAS (a registered version), runs:/ID (an MLflow run that kept
    its weights), or the folder of a checkpoint or of a run that has one, below the storage root or anywhere. What comes
    from MLflow is copied to the storage root. Raises ValueError where there is no such checkpoint.
    """
    if init_from.startswith(("models:/", "runs:/")):
        folder = home / ".work" / "initial"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if init_from.startswith("models:/"):
                fetched = registry.fetch_weights(tracking_uri, init_from, folder)
            else:
                run = tracking.Tracked(tracking_uri, init_from.removeprefix("runs:/").split("/")[0])
                fetched = tracking.fetch_artifacts(run, "weights", folder)
        except Exception as error:  # an unknown name, version or run, no weights, no server: MLflow has a word for each
            raise ValueError(
                f"training.init_from is {init_from!r}, which MLflow at {tracking_uri} does not give: {error}. Expected "
                "models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID or the folder of a checkpoint; `make ui` shows "
                "which there are."
            ) from None
        source = Store(str(fetched))
        target = Store(f"{storage_root}/initial/{digest_of(source)[:16]}")
        if not is_complete(target):
            copy_checkpoint(source, target)
        return target.root
    places = [f"{root}{init_from}{end}" for root in ("", f"{storage_root}/", f"{home}/") for end in ("", "/final")]
    if init_from.startswith("/") or "://" in init_from:
        places = places[:2]
    for place in places:
        if is_complete(Store(place)):
            return place
    raise ValueError(
        f"training.init_from is {init_from!r}, but none of {', '.join(places)} is a finished checkpoint. Expected the "
        "folder of one, models:/NAME/VERSION or runs:/ID."
    )
