"""A pretrained VQ-f4, in whatever form it comes."""

import tempfile
import zipfile
from pathlib import Path

from scadm.first_stage import VQF4


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
