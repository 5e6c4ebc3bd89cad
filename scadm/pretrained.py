"""A pretrained VQ-f4, in whatever form it comes."""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from scadm.data.zips import DAMAGED
from scadm.first_stage import VQF4

_CHECKPOINTS = (".ckpt", ".safetensors")
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model."
"""What diffusers calls the files of a model."""

FORMS = (
    "a folder with a diffusers VQModel (config.json and diffusion_pytorch_model.safetensors), a latent-diffusion "
    f"checkpoint ({' or '.join(_CHECKPOINTS)}), a zip of one of these, or the address of such a file"
)


def open_vq_f4(weights: Path) -> VQF4:
    """A pretrained VQ-f4: a folder in diffusers' form, a checkpoint in that of latent-diffusion, or a zip of either.

    Nothing that is pickled in the checkpoint is run. Raises ValueError if it is none of these, or is damaged.
    """
    if not weights.exists():
        raise ValueError(f"autoencoder.weights is {weights}, where there is nothing, expected {FORMS}.")
    if weights.is_dir():
        return _open_folder(weights, str(weights))
    if not zipfile.is_zipfile(weights):
        if weights.suffix == ".zip":
            raise ValueError(_damaged(weights, "it has no directory at its end"))
        return _open_checkpoint(weights, str(weights))
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(weights) as archive:
                found = _unpack(weights, archive, Path(folder))
        except DAMAGED as error:
            raise ValueError(_damaged(weights, str(error))) from None
        path, named = found
        return _open_folder(path, named) if path.is_dir() else _open_checkpoint(path, named)


def _unpack(weights: Path, archive: zipfile.ZipFile, folder: Path) -> tuple[Path, str]:
    """The checkpoint or the VQModel of a zip, unpacked into an empty folder, and what to call it."""
    names = [name for name in archive.namelist() if not _is_litter(name)]
    if any(PurePosixPath(name).name == "data.pkl" for name in names):  # torch's own files are zips too
        return weights, str(weights)
    models = [name for name in names if PurePosixPath(name).name == _CONFIG and _is_vq(archive.read(name))]
    checkpoints = [name for name in names if name.endswith(_CHECKPOINTS) and _WEIGHTS not in name]
    if len(models) + len(checkpoints) != 1:
        raise ValueError(
            f"{weights} holds {', '.join(models + checkpoints) or 'neither a checkpoint nor a VQModel'}, expected one "
            f"checkpoint ({' or '.join(_CHECKPOINTS)}) or one folder of a diffusers VQModel ({_CONFIG} and "
            f"{_WEIGHTS}safetensors). Which first stage is meant cannot be told: pack that one alone, or unpack it, "
            "and name its path in autoencoder.weights."
        )
    if checkpoints:
        return _unpacked(archive, checkpoints[0], folder), f"{checkpoints[0]} in {weights}"
    place = PurePosixPath(models[0]).parent
    for name in names:
        path = PurePosixPath(name)
        if path.parent == place and path.name.startswith((_CONFIG, _WEIGHTS)):
            _unpacked(archive, name, folder)
    return folder, f"{place} in {weights}"


def _open_checkpoint(path: Path, named: str) -> VQF4:
    from scadm.interop import first_stage_from_published
    from scadm.lightning import read_state_dict

    try:
        return first_stage_from_published(read_state_dict(path))
    except ValueError as error:
        raise ValueError(f"autoencoder.weights: {str(error).replace(str(path), named)} Expected {FORMS}.") from None


def _open_folder(folder: Path, named: str) -> VQF4:
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"autoencoder.weights is {named}, a folder without {_CONFIG}, expected {FORMS}.")
    try:
        return VQF4.open(folder)
    except OSError as error:  # diffusers', where the weights are not there or cannot be read
        reason = " ".join(str(error).replace(str(folder), named).split())
        raise ValueError(
            f"autoencoder.weights is {named}, which cannot be opened: {reason} Expected {FORMS}."
        ) from None


def _unpacked(archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    """A member in `folder` under its last name, whatever its path says."""
    path = folder / PurePosixPath(name).name
    with archive.open(name) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return path


def _is_vq(config: bytes) -> bool:
    try:
        tree = json.loads(config)
    except ValueError:
        return False
    return isinstance(tree, dict) and tree.get("_class_name") == "VQModel"


def _is_litter(name: str) -> bool:
    """What desktops leave in archives."""
    path = PurePosixPath(name)
    return path.name.startswith("._") or "__MACOSX" in path.parts


def _damaged(weights: Path, reason: str) -> str:
    return (
        f"{weights} cannot be read as a zip archive: {reason}. Expected a whole one without a password: fetch or pack "
        "it again."
    )
