"""Networks, shards and training jobs that are small enough for a test."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from toy_faces import ToyFaces

from scadm.config import (
    AutoencoderConfig,
    ClusterConfig,
    DiffusionConfig,
    ModelConfig,
    MonitoringConfig,
    SamplingConfig,
    StyleEncoderConfig,
    TrainingConfig,
    UNetConfig,
)
from scadm.data.shards import INDEX, Latents, Sample, describe_shard, encode, write_index, write_shard
from scadm.diffusion.schedule import Schedule
from scadm.first_stage import LatentScale, load_first_stage, save_small
from scadm.models.autoencoder import VQAutoencoder
from scadm.models.scadm import LATENT_FACTOR, SCADM
from scadm.synthesis import Synthesiser
from scadm.training.hooks import Wish
from scadm.training.job import TrainJob
from scadm.training.journal import NOT_METRICS, Row

# More threads do not make networks of this size faster, and the sums that they share out would depend on the machine.
torch.set_num_threads(1)

SIDE = 16
"""Of the images, in pixels; the latents' side is a quarter of it."""

STYLE = StyleEncoderConfig(features=1, downsamplings=2, scales=2, style_channels=4, skip="aligned", colour_scale=False)
UNET = UNetConfig(
    channels=8,
    multipliers=(1, 2),
    res_blocks=1,
    attention_at=(1,),
    head_channels=4,
    groups=4,
    spade_channels=4,
    mask_attention="hard",
    mask_resize="nearest",
    dropout=0.0,
)
MODEL = ModelConfig(method="sca-dm", style_encoder=STYLE, unet=UNET)
DIFFUSION = DiffusionConfig(
    prediction="epsilon",
    timesteps=100,
    beta_start=0.0015,
    beta_end=0.0195,
    normalise_latents=True,
    no_reference=0.5,
    guidance_null=0.1,
    min_snr_gamma=None,
)
SAMPLING = SamplingConfig(
    solver="ddim",
    spacing="published",
    steps=4,
    eta=0.0,
    guidance_scale=0.5,
    guidance_interval=(0.0, 1.0),
    precision="fp32",
)
AUTOENCODER = AutoencoderConfig(channels=8, multipliers=(1, 2), res_blocks=1, groups=4, codes=16, latent_channels=3)
TRAINING = TrainingConfig(
    seed=0,
    init_from=None,
    steps=8,
    batch_size=4,
    micro_batch=2,
    learning_rate=2e-3,
    warmup_steps=2,
    decay="constant",
    weight_decay=0.01,
    clip_norm=1.0,
    ema_decay=0.99,
    precision="fp32",
)
CLUSTER = ClusterConfig(
    address=None,
    workers=1,
    min_workers=None,
    use_gpu=False,
    data_workers=1,
    loader_threads=1,
    gradient_checkpointing=False,
    compile=False,
    object_store_mb=80,
    max_failures=0,
)
MONITORING = MonitoringConfig(
    log_every=1,
    validate_every=4,
    validation_samples=4,
    sample_every=100,
    checkpoint_every=3,
    keep_checkpoints=2,
    failed_checkpoints=2,
)


def with_unet(**changes: Any) -> ModelConfig:
    return MODEL.model_copy(update={"unet": UNET.model_copy(update=changes)})


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every weight at random, those that are initialised to zero too, so that all of them matter."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=random) / fan_in**0.5)
    return module


def model(config: ModelConfig = MODEL) -> SCADM:
    built = SCADM(config, 3)
    lively(built)
    return built.eval()


class Painter(nn.Module):
    """Stands in for the model: takes mean colours for style codes, and latents for these, painted into the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_bar = Schedule(DIFFUSION).alpha_bar
        self.styles: list[Tensor] = []

    def encode_style(self, image: Tensor, mask: Tensor) -> Tensor:
        sums = torch.einsum("b c h w, b k h w -> b k c", image, mask)
        return sums / rearrange(mask.sum(dim=(2, 3)).clamp(min=1), "b k -> b k 1")

    def condition(self, style: Tensor, mask: Tensor) -> Tensor:
        self.styles.append(style)
        return torch.einsum("b k c, b k h w -> b c h w", style, mask[:, :, ::LATENT_FACTOR, ::LATENT_FACTOR])

    def denoise(self, x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
        kept = rearrange(self.alpha_bar[t], "b -> b 1 1 1")
        return (x_t - kept.sqrt() * x_0) / (1 - kept).sqrt()


class Enlarged(nn.Module):
    """Stands in for the autoencoder of a `Painter`, whose latents are pictures."""

    latent_channels = 3

    def encode(self, image: Tensor) -> Tensor:
        return image[:, :, ::LATENT_FACTOR, ::LATENT_FACTOR]

    def decode(self, latent: Tensor) -> Tensor:
        return F.interpolate(latent, scale_factor=LATENT_FACTOR)


def painting(folder: Path) -> Synthesiser:
    """A `Painter` behind the interface that people call, without guidance."""
    return replace(
        synthesiser(folder),
        model=Painter(),  # type: ignore[arg-type]
        first_stage=Enlarged(),  # type: ignore[arg-type]
        scale=LatentScale.identity(3),
        sampling=SAMPLING.model_copy(update={"guidance_scale": 0.0}),
    )


LATENTS = Latents("0" * 64, (0.0,) * 3, (1.0,) * 3)


def samples(count: int, flip: bool = True, seed: int = 0) -> list[Sample]:
    """Faces with latents drawn at random, two of them each where `flip` is on."""
    rng = np.random.default_rng(seed)
    toys = ToyFaces(count, SIDE, seed)
    latents = rng.standard_normal((count, 1 + flip, 3, SIDE // 4, SIDE // 4)).astype(np.float16)
    rows = zip(latents, toys.images, toys.labels, strict=True)
    return [Sample(f"{seed}-{i:04d}", *row) for i, row in enumerate(rows)]


def write_shards(folder: Path, splits: dict[str, list[Sample]], per_shard: int = 5) -> Path:
    folder.mkdir()
    shards = []
    for split, rows in splits.items():
        for start in range(0, len(rows), per_shard):
            part = rows[start : start + per_shard]
            name = f"{split}-{start:06d}-{start + len(part) - 1:06d}.tar"
            write_shard(folder / name, split, map(encode, part))
            shards.append(describe_shard(folder / name))
    write_index(folder / INDEX, shards, LATENTS)
    return folder


def write_autoencoder(folder: Path) -> str:
    """A folder as the autoencoder stage writes it, with weights at random; returns its fingerprint."""
    folder.mkdir()
    torch.manual_seed(0)
    return save_small(folder, VQAutoencoder(AUTOENCODER))


def synthesiser(folder: Path) -> Synthesiser:
    """A model at random behind the interface that people call; its autoencoder is written to `folder`."""
    write_autoencoder(folder / "autoencoder")
    return Synthesiser(
        model=model().requires_grad_(False),
        first_stage=load_first_stage(folder / "autoencoder").model,
        scale=LatentScale((0.1, 0.0, -0.1), (0.5, 0.6, 0.4)),
        diffusion=DIFFUSION,
        sampling=SAMPLING,
        resolution=SIDE,
        device=torch.device("cpu"),
    )


def training_job(folder: Path, **changes: Any) -> TrainJob:
    """A job whose shards and autoencoder are made in `folder`, with its run folder beside them."""
    shards, autoencoder = folder / "shards", folder / "autoencoder"
    if not shards.exists():
        write_shards(shards, {"train": samples(11), "validation": samples(5, seed=1)})
        write_autoencoder(autoencoder)
    job = TrainJob(
        run=str(folder / "run"),
        shards=str(shards),
        autoencoder=str(autoencoder),
        autoencoder_fingerprint="of the test",
        resolution=SIDE,
        latent_channels=3,
        scale=LatentScale((0.1, 0.0, -0.1), (1.0, 1.1, 0.9)),
        seed=0,
        model=MODEL,
        diffusion=DIFFUSION,
        training=TRAINING,
        monitoring=MONITORING,
        sampling=SAMPLING,
        loader_threads=1,
        gradient_checkpointing=False,
        compile=False,
        initial=None,
        guidance_null="encoded",
        lease=None,
    )
    return replace(job, **changes)


class Killed(Exception):
    """Stands in for the end of the process."""


@dataclass
class Recorder:
    """Hooks that write down what they are told, and its own progress bar; it can end a run after a number of steps."""

    kill_after: int | None = None
    stop_after: int | None = None
    losing_after: int | None = None
    said: list[str] = field(default_factory=list)
    steps: int = 0
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pictures: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    reports: list[int] = field(default_factory=list)
    known: int = 0
    """Rows of the journal as a run was resumed."""
    close: Callable[[], None] = lambda: None

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, total: int, initial: int) -> "Recorder":
        self.steps = initial
        return self

    def update(self, n: float = 1) -> None:
        self.steps += int(n)
        if self.steps == self.kill_after:
            raise Killed

    def set_postfix_str(self, s: str) -> None:
        pass

    def log(self, row: Row) -> None:
        self.logged.append((int(row["step"]), {name: value for name, value in row.items() if name not in NOT_METRICS}))

    def catch_up(self, rows: list[Row]) -> None:
        self.known = len(rows)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        self.pictures.append((step, name, image.shape))

    def report(self, metrics: dict[str, float]) -> None:
        self.reports.append(int(metrics["step"]))

    def wish(self) -> Wish:
        if self.steps == self.stop_after:
            return Wish.STOP
        return Wish.LOOK if self.steps == self.losing_after else Wish.NOTHING

    def losing_machine(self) -> bool:
        return True
