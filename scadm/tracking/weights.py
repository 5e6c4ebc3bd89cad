"""The final weights among a run's artifacts."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow.tracking import MlflowClient

from scadm.files.checkpoint import copy_checkpoint, digest_of, is_complete
from scadm.files.manifest import require_same
from scadm.files.store import Store
from scadm.redaction import brief, redacted
from scadm.tracking.runs import SENT_LATER
from scadm.tracking.store import Tracked, asking, warn


def keep_weights(tracked: Tracked, final: Store) -> bool:
    """Keep the final weights as artifacts of the run too, so that a clone without this storage can have them.

    Whether they are there. A store that fails costs a warning only; running again sends them.
    """
    names = final.files()
    try:
        client = MlflowClient(tracked.uri)
        with asking():  # first, so that a store that is away is not waited for by the upload
            kept = {Path(file.path).name: file.file_size for file in client.list_artifacts(tracked.run_id, "weights")}
        if kept != {name: final.size(name) for name in names}:
            with tempfile.TemporaryDirectory() as folder:
                for name in names:
                    (Path(folder) / name).write_bytes(final.read(name))
                client.log_artifacts(tracked.run_id, folder, "weights")
    except Exception as error:  # whatever the store, the network or the server did: the training matters more
        warn(tracked, error, f"The final weights are in {redacted(final.root)}, not yet in MLflow. {SENT_LATER}")
        return False
    return True


def fetch_artifacts(tracked: Tracked, name: str, folder: Path) -> Path:
    """Download a folder of artifacts; returns where it lies."""
    return Path(MlflowClient(tracked.uri).download_artifacts(tracked.run_id, name, str(folder)))


def find_weights(
    trained: Mapping[str, str], storage_root: str, tracked: Tracked, work: Path, everywhere: bool = False
) -> str:
    """Where the weights of models/train.json are: at the storage root, or fetched from the run's artifacts.

    `everywhere`: fetched ones are put back to the storage root, where every node of a cluster finds them.
    Raises ValueError where they are in neither place, or are not the ones that were trained.
    """
    place = f"{storage_root}/{trained['weights']}"
    if not is_complete(Store(place)):
        try:
            place = str(fetch_artifacts(tracked, "weights", work / f"weights-{trained['run_key']}"))
        except Exception as error:
            raise ValueError(
                f"the weights of run {trained['run_key']} are neither in {redacted(place)} nor among the artifacts of "
                f"the MLflow run {trained['mlflow_run']} ({brief(error)}). Set storage.root or tracking.uri to where "
                "they are, or train again with `dvc repro --force train`."
            ) from None
    require_same(
        f"the digest of the weights in {redacted(place)}",
        digest_of(Store(place)),
        trained["sha256"],
        "Run `dvc repro train`.",
    )
    if everywhere and "://" not in place:
        kept = Store(f"{storage_root}/{trained['weights']}")
        copy_checkpoint(Store(place), kept)
        return kept.root
    return place
