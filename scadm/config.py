"""Typed parameters. `params.yaml` is their only source: no field here has a default, an unknown key is an error.

Each class is the one constructor argument of the component that it is named after. What a parameter does is
said beside its value in `conf/base.yaml`; here are its type and its limits.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from scadm.faces import LABELS
from scadm.redaction import holds_password, redacted

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Precision = Literal["fp32", "bf16", "auto"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Address = Annotated[str, Field(pattern=r"^(drive:[\w-]+|[a-z0-9]+://.+)$")]
"""What `scadm.data.fetch` fetches: http(s)://..., drive:ID, or what Arrow opens, such as s3://... and file://..."""

FETCHED = "scadm/data/fetch.py"
"""What data.path names where the archive is fetched: DVC watches a path, and this is the code that makes it."""
DRAWN = "scadm/data/synthetic"
"""Likewise where the faces are drawn."""

FACER_WEIGHTS = (
    "https://github.com/FacePerceiver/facer/releases/download/models-v1/face_parsing.farl.celebm.main_ema_181500_jit.pt"
)
"""What parser.weights is in the profile celebamask-hq, for those who choose facer in another one."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Row = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Config(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- data ---------------------------------------------------------------------------------------------


class ProjectConfig(Config):
    data_name: Name
    seed: Count
    resolution: Annotated[int, Field(ge=16, multiple_of=8)]

    @property
    def registered_name(self) -> str:
        """Of the model in the registry: one name for each data set and resolution, since only these compare."""
        return f"sca-dm-{self.data_name}-{self.resolution}"


class SyntheticConfig(Config):
    count: PositiveInt
    image_size: Annotated[int, Field(ge=16)]


class SplitConfig(Config):
    rule: Literal["paper", "official", "fraction"]
    validation: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _leaves_a_train_split(self) -> "SplitConfig":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leave nothing to train on: their sum must be below 1"
            )
        return self


def _list(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"expected a list, [{value!r}]")
    return value


def _quoted(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(id, int) for id in value):
        raise ValueError('expected ids in quotes, such as "00123": without them YAML reads 00123 as the number 83')
    return value


class DataConfig(Config):
    source: Literal["synthetic", "celebamask-hq", "folder"]
    path: str
    addresses: Annotated[tuple[Address, ...], BeforeValidator(_list)]
    sha256: Sha256 | None
    synthetic: SyntheticConfig
    split: SplitConfig
    known_bad: Annotated[tuple[str, ...], BeforeValidator(_quoted)]

    @model_validator(mode="after")
    def _fetches_or_reads(self) -> "DataConfig":
        if bool(self.addresses) != (self.path == FETCHED):
            raise ValueError(
                f"path is {self.path!r} and addresses are {list(self.addresses)}: expected either addresses and path "
                f"{FETCHED}, to fetch the archive, or no addresses and the path of a local one"
            )
        if self.source == "synthetic" and self.path != DRAWN:
            raise ValueError(
                f"source is synthetic, which draws faces, but path is {self.path!r}: expected {DRAWN}. To read what is "
                "there, set data.source to celebamask-hq (an archive in the official layout) or folder"
            )
        if self.addresses and self.source != "celebamask-hq":
            raise ValueError(f"addresses fetch an archive in the official layout, but source is {self.source}")
        if self.sha256 is not None and self.source != "celebamask-hq":
            raise ValueError(
                f"sha256 is {self.sha256}, which is required of an archive in the official layout, but source is "
                f"{self.source}: expected null"
            )
        return self


class MasksConfig(Config):
    resize: Literal["nearest", "area"]
    rows_per_part: PositiveInt


class LatentsConfig(Config):
    flip: bool
    precision: Precision
    samples_per_shard: PositiveInt
    batch_size: PositiveInt


# --- first stage and face parser ----------------------------------------------------------------------


class FitConfig(Config):
    """A short in-process training, of the autoencoder or the parser."""

    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: Positive
    precision: Precision


class AutoencoderFitConfig(FitConfig):
    ssim_weight: NonNegative
    commitment_weight: NonNegative
    continuous_share: Fraction
    latent_noise: NonNegative


class AutoencoderConfig(Config):
    """Architecture of the small VQ autoencoder (downsampling 4)."""

    channels: PositiveInt
    multipliers: tuple[PositiveInt, ...]
    res_blocks: PositiveInt
    groups: PositiveInt
    codes: PositiveInt
    latent_channels: PositiveInt


class AutoencoderStageConfig(Config):
    kind: Literal["small", "vq-f4", "pixels"]
    weights: str | None
    weights_sha256: Sha256 | None
    extra_images: Annotated[str, Field(min_length=1)]
    network: AutoencoderConfig
    training: AutoencoderFitConfig

    @property
    def latent_channels(self) -> int:
        """What can be known before the autoencoder is there; of VQ-f4, the published 3 of the network above."""
        return 3 * 4**2 if self.kind == "pixels" else self.network.latent_channels


class ParserConfig(Config):
    """Architecture of the small face parser, a U-Net."""

    channels: PositiveInt
    multipliers: tuple[PositiveInt, ...]


class ParserStageConfig(Config):
    kind: Literal["small", "torchscript", "facer"]
    weights: str | None
    weights_sha256: Sha256 | None
    network: ParserConfig
    training: FitConfig

    @model_validator(mode="after")
    def _pretrained_has_weights(self) -> "ParserStageConfig":
        if self.kind == "facer" and not self.weights:
            raise ValueError(
                "weights is null, expected facer's weights: without them facer would fetch some by itself, whose "
                "sha256 nobody checks. Name a file or an address in parser.weights; the profile celebamask-hq uses "
                f"{FACER_WEIGHTS}"
            )
        if self.kind == "torchscript" and not self.weights:
            raise ValueError("weights is null, expected a TorchScript file or its address for kind torchscript")
        return self


class MetricsConfig(Config):
    """Published networks that metrics rest on, beside the parser; None leaves their metrics out."""

    lpips: str | None
    lpips_sha256: Sha256 | None
    inception: str | None
    inception_sha256: Sha256 | None


# --- the model ----------------------------------------------------------------------------------------


class StyleEncoderConfig(Config):
    features: PositiveInt
    downsamplings: PositiveInt
    scales: PositiveInt
    style_channels: PositiveInt
    skip: Literal["aligned", "published"]
    colour_scale: bool

    @model_validator(mode="after")
    def _scales_fit(self) -> "StyleEncoderConfig":
        if self.scales > self.downsamplings:
            raise ValueError(f"scales {self.scales} must not exceed downsamplings {self.downsamplings}")
        return self


class UNetConfig(Config):
    channels: PositiveInt
    multipliers: tuple[PositiveInt, ...]
    res_blocks: PositiveInt
    attention_at: tuple[PositiveInt, ...]
    head_channels: PositiveInt
    groups: PositiveInt
    spade_channels: PositiveInt
    mask_attention: Literal["hard", "soft", "none"]
    mask_resize: Literal["nearest", "area"]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _channels_divide(self) -> "UNetConfig":
        for name, size in (("groups", self.groups), ("head_channels", self.head_channels)):
            widths = [self.channels * multiplier for multiplier in self.multipliers]
            if any(width % size for width in widths):
                raise ValueError(
                    f"{name} {size} must divide every level's channels {widths}, which are channels "
                    f"{self.channels} x each of the multipliers {self.multipliers}"
                )
        return self


class ModelConfig(Config):
    method: Literal["sca-dm", "sdm"]
    style_encoder: StyleEncoderConfig
    unet: UNetConfig


class DiffusionConfig(Config):
    timesteps: PositiveInt
    beta_start: Positive
    beta_end: Positive
    prediction: Literal["epsilon", "v"]
    normalise_latents: bool
    no_reference: Fraction
    guidance_null: Fraction
    min_snr_gamma: Positive | None


class TrainingConfig(Config):
    seed: Count
    init_from: str | None
    steps: Count
    batch_size: PositiveInt
    micro_batch: PositiveInt
    learning_rate: Positive
    warmup_steps: Count
    decay: Literal["constant", "cosine"]
    weight_decay: NonNegative
    clip_norm: Positive
    ema_decay: Fraction
    precision: Precision

    @model_validator(mode="after")
    def _makes_something(self) -> "TrainingConfig":
        if self.steps == 0 and self.init_from is None:
            raise ValueError(
                "steps is 0, expected at least 1: without training.init_from there are only random weights. With it, "
                "0 steps take those weights as they are."
            )
        return self


class MonitoringConfig(Config):
    """What a training run writes down, and how often; none of it changes the run's result."""

    log_every: PositiveInt
    validate_every: PositiveInt
    validation_samples: PositiveInt
    sample_every: PositiveInt
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt
    failed_checkpoints: PositiveInt


class SamplingConfig(Config):
    solver: Literal["ddim", "dpm-solver++"]
    spacing: Literal["published", "trailing", "logsnr"]
    steps: PositiveInt
    eta: NonNegative
    guidance_scale: NonNegative
    guidance_interval: tuple[Fraction, Fraction]
    precision: Precision

    @model_validator(mode="after")
    def _interval_holds_something(self) -> "SamplingConfig":
        low, high = self.guidance_interval
        if low >= high:
            raise ValueError(
                f"guidance_interval is [{low}, {high}], expected [low, high] with low below high: in an empty interval "
                "nothing is guided. To leave guidance out, set sampling.guidance_scale to 0."
            )
        return self

    @model_validator(mode="after")
    def _solver_knows_eta(self) -> "SamplingConfig":
        if self.solver == "dpm-solver++" and self.eta > 0:
            raise ValueError(
                f"eta is {self.eta}, expected 0 with solver dpm-solver++, which solves the deterministic equation and "
                "adds no noise. Set sampling.eta to 0, or sampling.solver to ddim."
            )
        return self


# --- what is known of a model -------------------------------------------------------------------------


class EvaluationConfig(Config):
    samples: PositiveInt
    batch_size: PositiveInt
    figure_rows: PositiveInt
    swaps: dict[Row, tuple[str, ...]]
    interpolated: Count
    steps: tuple[PositiveInt, ...]

    @field_validator("swaps")
    @classmethod
    def _parts_exist(cls, swaps: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, parts in swaps.items():
            unknown = [part for part in parts if part not in LABELS]
            if unknown or not parts:
                raise ValueError(f"{name} has the parts {list(parts)}, expected some of {', '.join(LABELS)}")
        return swaps


class GateConfig(Config):
    """Thresholds that a candidate must meet on the test split, beside not being worse than the champion."""

    min_ssim_share: float
    min_accuracy_share: float
    min_transfer: float


class RegistryConfig(Config):
    gate: GateConfig
    tolerance: NonNegative


# --- where it runs (these never change a result) ------------------------------------------------------


class ClusterConfig(Config):
    address: str | None
    workers: Count
    min_workers: PositiveInt | None
    use_gpu: bool
    data_workers: PositiveInt
    loader_threads: PositiveInt
    gradient_checkpointing: bool
    compile: bool
    object_store_mb: Annotated[int, Field(ge=80)]
    max_failures: Count

    @model_validator(mode="after")
    def _range_is_one(self) -> "ClusterConfig":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers is {self.min_workers} and workers is {self.workers}: expected at most as many as "
                "workers, or null"
            )
        return self


class StorageConfig(Config):
    root: str

    @field_validator("root")
    @classmethod
    def _is_a_place(cls, root: str) -> str:
        if "?" in root:  # what lies below would be named behind the query
            raise ValueError(
                "expected an address without settings behind a question mark. Of an S3 store that is not Amazon's, say "
                "where it is by the environment variable AWS_ENDPOINT_URL, here and on all nodes"
            )
        if holds_password(root):  # it would be in every checkpoint's address: in MLflow, results and shared.json
            raise ValueError(
                "expected an address without user and password, such as s3://bucket/path. Each machine has its own "
                "credentials, by its environment (AWS_ACCESS_KEY_ID and the like) or the cloud's own files (~/.aws)"
            )
        return root


class TrackingConfig(Config):
    uri: str
    experiment: str
    machine_metrics_s: Count


class Params(Config):
    """The whole of params.yaml."""

    project: ProjectConfig
    data: DataConfig
    masks: MasksConfig
    autoencoder: AutoencoderStageConfig
    latents: LatentsConfig
    parser: ParserStageConfig
    metrics: MetricsConfig
    model: ModelConfig
    diffusion: DiffusionConfig
    training: TrainingConfig
    monitoring: MonitoringConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    registry: RegistryConfig
    cluster: ClusterConfig
    storage: StorageConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Params":
        latent_size = self.project.resolution // 4
        deepest = 2 ** (len(self.model.unet.multipliers) - 1)
        if latent_size % deepest:
            raise ValueError(
                f"model.unet.multipliers has {len(self.model.unet.multipliers)} levels, which need latents divisible "
                f"by {deepest}, but project.resolution {self.project.resolution} gives latents of {latent_size}"
            )
        if self.project.resolution % 2**self.model.style_encoder.downsamplings:
            raise ValueError(
                f"model.style_encoder.downsamplings {self.model.style_encoder.downsamplings} needs a "
                f"project.resolution divisible by {2**self.model.style_encoder.downsamplings}, "
                f"it is {self.project.resolution}"
            )
        if self.cluster.workers > self.training.batch_size:
            raise ValueError(
                f"cluster.workers {self.cluster.workers} are more than the {self.training.batch_size} images of "
                "training.batch_size: some would have nothing to do. Choose at most as many workers"
            )
        return self


def explain(error: ValidationError, where: str) -> str:
    """One line for each fault: the key, what is there (without secrets), what was expected."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {key} = {fault['input']!r}")
        elif fault["type"] == "missing":
            lines.append(f"missing key {key}")
        elif isinstance(fault["input"], dict):  # of a section: the message names the values that do not fit
            lines.append(": ".join(filter(None, [key, fault["msg"].removeprefix("Value error, ")])))
        else:
            lines.append(f"{key} = {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}")
    return redacted(
        f"{where} is not valid:\n  "
        + "\n  ".join(lines)
        + "\nEvery key is explained in conf/base.yaml; `scadm profile NAME` writes a valid params.yaml."
    )


def validate(tree: dict[str, Any], where: str) -> Params:
    """Check a tree of parameters. Raises ValueError naming every fault, as found in `where`."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, where)) from None


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml. Raises ValueError naming every fault."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Run this from the project's folder, or `scadm profile quickstart`.")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds {type(tree).__name__}, expected sections of parameters.")
    return validate(tree, str(path))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as `section.key` -> text."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat
