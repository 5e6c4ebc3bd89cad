"""What a training is: a job that travels to its workers, and what each of them is."""

from dataclasses import dataclass
from typing import Any

import torch

from scadm.config import DiffusionConfig, ModelConfig, MonitoringConfig, Params, SamplingConfig, TrainingConfig
from scadm.files.manifest import Manifest, require_same
from scadm.first_stage import LatentScale
from scadm.synthesis import GuidanceNull
from scadm.training.start import read_start


@dataclass(frozen=True)
class TrainJob:
    """Everything that a worker needs to know; it travels by pickle."""

    run: str
    """Path or URI of the run's folder."""
    shards: str
    autoencoder: str
    """Folder of the first stage, for the sample grids."""
    autoencoder_fingerprint: str
    resolution: int
    latent_channels: int
    scale: LatentScale
    seed: int
    model: ModelConfig
    diffusion: DiffusionConfig
    training: TrainingConfig
    monitoring: MonitoringConfig
    sampling: SamplingConfig
    loader_threads: int
    gradient_checkpointing: bool
    compile: bool
    initial: str | None
    """Path or URI of the checkpoint whose weights it starts from."""
    guidance_null: GuidanceNull
    lease: str | None
    """Token of the launch that may write the run; None where nobody else can."""

    @classmethod
    def of(
        cls, params: Params, data: Manifest, *, run: str, shards: str, autoencoder: str, initial: str | None
    ) -> "TrainJob":
        """The training that `params` describe on the shards whose manifest is `data`, from the checkpoint `initial`.

        Raises ValueError if the shards are of another resolution or hold no latents' statistics, or if the checkpoint
        is of another architecture, diffusion or autoencoder.
        """
        require_same("the resolution of data/shards", data.resolution, params.project.resolution, "Run `dvc repro`.")
        if data.latent_mean is None or data.latent_std is None or data.autoencoder is None:
            raise ValueError(f"{shards} has no latent statistics in its manifest. Run `dvc repro --force latents`.")
        channels = len(data.latent_mean)
        scale = LatentScale(data.latent_mean, data.latent_std)
        if not params.diffusion.normalise_latents:
            scale = LatentScale.identity(channels)
        null: GuidanceNull = "encoded"
        if initial is not None:
            start = read_start(initial, params, data.autoencoder)
            scale = start.scale  # the latents as these weights have learnt to see them
            if params.training.steps == 0:
                null = start.guidance_null
        return cls(
            run=run,
            shards=shards,
            autoencoder=autoencoder,
            autoencoder_fingerprint=data.autoencoder,
            resolution=params.project.resolution,
            latent_channels=channels,
            scale=scale,
            seed=params.training.seed,
            model=params.model,
            diffusion=params.diffusion,
            training=params.training,
            monitoring=params.monitoring,
            sampling=params.sampling,
            loader_threads=params.cluster.loader_threads,
            gradient_checkpointing=params.cluster.gradient_checkpointing,
            compile=params.cluster.compile,
            initial=initial,
            guidance_null=null,
            lease=None,
        )

    def checkpoint_config(self, step: int) -> dict[str, Any]:
        """What a checkpoint must hold besides weights, so that it can be loaded without flags."""
        return {
            "model": self.model.model_dump(mode="json"),
            "diffusion": self.diffusion.model_dump(mode="json"),
            "latent_channels": self.latent_channels,
            "latent_mean": list(self.scale.mean),
            "latent_std": list(self.scale.std),
            "resolution": self.resolution,
            "autoencoder": self.autoencoder_fingerprint,
            "guidance_null": self.guidance_null,
            "step": step,
        }


@dataclass(frozen=True)
class Worker:
    rank: int
    ranks: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0
