"""Taking in a published checkpoint: as a checkpoint of ours at the storage root, and as a version in the registry."""

from dataclasses import dataclass
from pathlib import Path

from scadm import lineage, registry, tracking
from scadm.files.checkpoint import is_complete, write_checkpoint
from scadm.files.manifest import digest, sha256
from scadm.files.store import Store
from scadm.files.weights import fingerprint
from scadm.first_stage import VQF4, import_vq_f4
from scadm.interop import DIFFUSION, FIRST_STAGE, first_stage_from_published, from_published, require_schedule
from scadm.lightning import read_state_dict
from scadm.models.scadm import LATENT_FACTOR, SCADM
from scadm.stage import Stage


@dataclass(frozen=True)
class Import:
    key: str
    """Of its folder, imports/<key> below the storage root: for the file, its first stage and the resolution."""
    weights: str
    autoencoder: Path
    """As the autoencoder stage writes it; `vq-f4` in it is the first stage in diffusers' form."""
    version: registry.Version


def import_checkpoint(file: Path, stage: Stage, *, resolution: int, first_stage: Path | None, name: str) -> Import:
    """Write `file`'s networks to `imports/<key>/`, and register them as a version of `name`; again, it changes nothing.

    `first_stage` is a diffusers VQModel's folder, for a file that does not hold the first stage itself. Raises
    ValueError, and writes nothing, where the file is not a published checkpoint, its schedule is not the published one,
    or its networks fit neither each other nor images of `resolution`.
    """
    state = read_state_dict(file)
    require_schedule(state)
    model = from_published(state)
    require_resolution(model, resolution)
    if first_stage is not None:
        vq = VQF4.open(first_stage)
    elif any(name.startswith(FIRST_STAGE) for name in state):
        vq = first_stage_from_published(state)
    else:
        raise ValueError(
            f"{file} holds no {FIRST_STAGE}*, expected the VQ-f4 whose latents it was trained on. Name it by "
            "--first-stage, a folder with a diffusers VQModel."
        )
    latents = model.latent_channels
    if vq.latent_channels != latents:
        raise ValueError(
            f"the first stage gives latents of {vq.latent_channels} channels, expected the {latents} that the U-Net of "
            f"{file} takes. Name the one that it was trained on by --first-stage."
        )
    content = sha256(file)
    parts = {"file": content, "first_stage": fingerprint({}, vq.state_dict()), "resolution": resolution}
    key = digest(parts)[:16]
    # The autoencoder stage copies it, so it lies on this machine even where the storage root does not.
    folder = stage.home / "storage" / "imports" / key / "autoencoder"
    mark = import_vq_f4(folder, vq)
    weights = Store(f"{stage.storage_root}/imports/{key}/final")
    config = {
        "model": model.config.model_dump(mode="json"),
        "diffusion": DIFFUSION.model_dump(mode="json"),
        "latent_channels": latents,
        "latent_mean": [0.0] * latents,  # the published latents are unscaled
        "latent_std": [1.0] * latents,
        "resolution": resolution,
        "autoencoder": mark,
        "guidance_null": "zero",
        "step": 0,
    }
    if not is_complete(weights):
        write_checkpoint(weights, {"weights": model.state_dict()}, config)
    tracked = tracking.open_run(
        stage.params.tracking,
        stage.home,
        f"import-{key}",
        name=f"import-{key[:6]}",
        params={"import": {"file": file.name, "sha256": content}, "resolution": resolution, "model": config["model"]},
        tags=lineage.tags(stage.workspace, "none"),
        dataset=None,
    )
    with tracking.ending(tracked):
        tracking.keep_weights(tracked, weights)
        version = registry.Registry(tracked.uri, name).register(
            tracked.run_id,
            artifacts={"weights": weights.root, "autoencoder": str(folder)},
            code=[str(stage.workspace / "scadm")],
            sampling=stage.params.sampling.model_dump(mode="json"),
            key=f"import-{key}",
            test_split="",
            description=f"Published SCA-DM checkpoint, imported from {file.name} (sha256 {content}), for "
            f"{resolution} pixels, not evaluated. Trained on CelebAMask-HQ by its authors: for non-commercial research "
            "only.",
        )
    return Import(key, weights.root, folder, version)


def require_resolution(model: SCADM, resolution: int) -> None:
    """Raise ValueError unless images of this side can be halved as often as the networks do."""
    config = model.config
    unit = max(2**config.style_encoder.downsamplings, LATENT_FACTOR * 2 ** (len(config.unet.multipliers) - 1))
    if resolution < unit or resolution % unit:
        raise ValueError(
            f"the resolution is {resolution}, expected a multiple of {unit}, which the {len(config.unet.multipliers)} "
            f"levels of the U-Net and the {config.style_encoder.downsamplings} downsamplings of the style encoder need."
        )
