"""Pretrained weights: by path, or by an address from which they are fetched once."""

import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from scadm.data.fetch import Wanted, fetch
from scadm.first_stage import VQF4
from scadm.progress import Transfer


def locate(named: str, sha256: str | None, base: Path, downloads: Path) -> Path:
    """The path of weights named by a path, relative to `base`, or by an address, which is fetched into `downloads`.

    Raises ValueError as `fetch` does.
    """
    if "://" not in named and not named.startswith("drive:"):
        return base / named
    name = PurePosixPath(named.partition("?")[0].partition(":")[2]).name
    with Transfer() as transfer:
        return fetch(Wanted(name, (named,), sha256), downloads, transfer).path


def open_vq_f4(weights: Path) -> VQF4:
    """A pretrained VQ-f4: a folder in diffusers' form, or a checkpoint in that of latent-diffusion, also in a zip.

    Nothing that is pickled in the checkpoint is run. Raises ValueError if it is none of these.
    """
    if not weights.is_file():
        return VQF4.open(weights)
    from scadm.interop import first_stage_from_published
    from scadm.lightning import read_state_dict

    packed = _packed(weights)
    if packed is None:
        return first_stage_from_published(read_state_dict(weights))
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(weights) as archive:
        return first_stage_from_published(read_state_dict(Path(archive.extract(packed, folder))))


def _packed(weights: Path) -> zipfile.ZipInfo | None:
    """The one checkpoint in a zip. A checkpoint is itself a zip of another kind, which holds none."""
    if not zipfile.is_zipfile(weights):
        return None
    with zipfile.ZipFile(weights) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith((".ckpt", ".safetensors"))]
    return found[0] if len(found) == 1 else None
