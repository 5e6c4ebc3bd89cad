"""Taking in a published checkpoint: as a checkpoint of ours at the storage root, and as a version in the registry."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scadm import lineage, registry, tracking
from scadm.checkpoint import Store, write_checkpoint
from scadm.config import DiffusionConfig
from scadm.diffusion.schedule import Schedule
from scadm.first_stage import import_vq_f4, load_first_stage
from scadm.interop import FIRST_STAGE, first_stage_from_published, from_published
from scadm.lightning import read_state_dict
from scadm.manifest import sha256
from scadm.stage import Stage

DIFFUSION = DiffusionConfig(
    timesteps=1000,
    beta_start=0.0015,
    beta_end=0.0195,
    prediction="epsilon",
    normalise_latents=False,
    no_reference=0.5,
    guidance_null=0.0,
    min_snr_gamma=None,
)
"""What the authors trained with: half of the style images are zero, the mask is always kept."""


@dataclass(frozen=True)
class Import:
    key: str
    """Of its folder, imports/<key> below the storage root: the beginning of the file's sha256."""
    weights: str
    autoencoder: Path
    """As the autoencoder stage writes it; `vq-f4` in it is the first stage in diffusers' form."""
    version: registry.Version


def import_checkpoint(file: Path, stage: Stage, *, resolution: int, first_stage: Path | None, name: str) -> Import:
    """Write `file`'s networks to `imports/<key>/`, and register them as a version of `name`; again, it changes nothing.

    `first_stage` is a diffusers VQModel's folder, for a file that does not hold the first stage itself. Raises
    ValueError where the file is not a published checkpoint, or its schedule is not the published one.
    """
    state = read_state_dict(file)
    require_schedule(state)
    model = from_published(state)
    key = sha256(file)[:16]
    # The autoencoder stage copies it, so it lies on this machine even where the storage root does not.
    folder = stage.home / "storage" / "imports" / key / "autoencoder"
    if first_stage is not None:
        import_vq_f4(folder, first_stage)
    elif any(name.startswith(FIRST_STAGE) for name in state):
        import_vq_f4(folder, first_stage_from_published(state))
    else:
        raise ValueError(
            f"{file} holds no {FIRST_STAGE}*, expected the VQ-f4 whose latents it was trained on. Name it by "
            "--first-stage, a folder with a diffusers VQModel."
        )
    weights = Store(f"{stage.storage_root}/imports/{key}/final")
    latents = model.latent_channels
    config = {
        "model": model.config.model_dump(mode="json"),
        "diffusion": DIFFUSION.model_dump(mode="json"),
        "latent_channels": latents,
        "latent_mean": [0.0] * latents,  # the published latents are unscaled
        "latent_std": [1.0] * latents,
        "resolution": resolution,
        "autoencoder": load_first_stage(folder).fingerprint,
        "guidance_null": "zero",
        "step": 0,
    }
    write_checkpoint(weights, {"weights": model.state_dict()}, config)
    tracked = tracking.open_run(
        stage.params.tracking,
        stage.home,
        f"import-{key}",
        name=f"import-{key[:6]}",
        params={"import": {"file": file.name, "sha256": sha256(file)}, "model": config["model"]},
        tags=lineage.tags(stage.workspace, "none"),
        dataset=None,
    )
    with tracking.ending(tracked):
        tracking.keep_weights(tracked, weights)
        version = registry.Registry(tracked.uri, name).register(
            tracked.run_id,
            weights=weights.root,
            autoencoder=str(folder),
            code=[str(stage.workspace / "scadm")],
            sampling=stage.params.sampling.model_dump(mode="json"),
            metrics={},
            test_split="",
            evaluation=f"import-{key}",
            description=f"Published SCA-DM checkpoint, imported from {file.name} (sha256 {sha256(file)}), not "
            "evaluated. Trained on CelebAMask-HQ by its authors: for non-commercial research only.",
        )
    return Import(key, weights.root, folder, version)


def require_schedule(state: dict[str, Tensor]) -> None:
    """Raise ValueError if the state dict has a noise schedule, and it is another than the published one."""
    if "alphas_cumprod" not in state:
        return
    found, expected = state["alphas_cumprod"].float(), Schedule(DIFFUSION).alpha_bar
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"the checkpoint's alphas_cumprod has {len(found)} steps and ends at {found[-1].item():.3g}, expected the "
            f"published schedule's {len(expected)} and {expected[-1].item():.3g}."
        )
