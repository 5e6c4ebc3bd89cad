"""The model against baselines that are written the direct way, at the published size (487 M).

    python -m benchmarks.model                             # everything; about 20 minutes on two cores
    python -m benchmarks.model --sections step train       # without the guided image
    python -m benchmarks.model --device cuda --compile

Sections: `step`, one forward of a sampling step; `train`, style encoder, forward and backward of one image; `image`,
one guided 50-step image with its decoding. All variants have the same weights and take turns in one process. The table
has medians, ratios to the first baseline, FLOPs, peak memory, and how far the results are from the first baseline's. It
is printed, and kept in `benchmarks/model-<device>.json` and `.md`.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.direct import Direct
from benchmarks.machine import describe, matrix_rate, peak_bytes, synchronise
from scadm.config import ModelConfig, Params
from scadm.diffusion.guidance import guide
from scadm.diffusion.solvers import sample
from scadm.first_stage import VQF4
from scadm.interop import STYLE, UNET, from_published
from scadm.models.scadm import LATENT_FACTOR, SCADM, to_one_hot
from scadm.precision import cast_layers, channels_last
from scadm.profiles import parameters
from scadm.progress import bar

LATENT_CHANNELS = 3
DIRECT, FUSED = "direct, fp32", "direct fused channels-last, bf16"
SECTIONS = ("step", "train", "image")
Denoiser = Callable[[Tensor, Tensor], Tensor]
Call = Callable[[], Tensor | None]


@dataclass(frozen=True)
class Faces:
    """A batch of masks in 16-pixel squares, and everything else at random."""

    x_t: Tensor
    t: Tensor
    image: Tensor
    mask: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, batch: int, side: int, device: torch.device) -> "Faces":
        random = torch.Generator().manual_seed(0)
        labels = torch.randint(19, (batch, side // 16, side // 16), generator=random)
        labels = labels.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
        cells = side // LATENT_FACTOR
        latents = torch.randn(2, batch, LATENT_CHANNELS, cells, cells, generator=random)
        image = torch.rand(batch, 3, side, side, generator=random) * 2 - 1
        parts = (latents[0], torch.full((batch,), 500), image, to_one_hot(labels), latents[1])
        return cls(*(part.to(device) for part in parts))


@dataclass
class Variant:
    """One way to run the same weights."""

    name: str
    net: Direct | SCADM
    bf16: bool
    device: torch.device

    @contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    @contextmanager
    def inference(self) -> Iterator[None]:
        with torch.inference_mode(), self.autocast():
            yield

    def style(self, faces: Faces) -> Tensor:
        return self.net.style_encoder(faces.image, faces.mask)

    def denoiser(self, style: Tensor, mask: Tensor) -> Denoiser:
        """The baseline's does everything at every step; ours conditions here, once."""
        if isinstance(net := self.net, SCADM):
            conditioning = net.condition(style, mask)
            return lambda x_t, t: net.denoise(x_t, t, conditioning)
        return lambda x_t, t: net.unet(x_t, t, style, mask)

    def gradients(self) -> dict[str, Tensor]:
        """By our names; a missing gradient is zero."""
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.float() for name, p in self.net.named_parameters()
        }
        if isinstance(self.net, SCADM):
            return {name: tensor.clone() for name, tensor in found.items()}
        return from_published(published(found)).state_dict()


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The baseline's names as a published checkpoint's."""
    return {
        UNET + key.removeprefix("unet.")
        if key.startswith("unet.")
        else STYLE + key.removeprefix("style_encoder."): value
        for key, value in state.items()
    }


# --- the sections: each makes the call that is timed, which returns what the variants are compared by --------


def step_call(variant: Variant, faces: Faces) -> Call:
    with variant.inference():
        denoise = variant.denoiser(variant.style(faces), faces.mask)

    def call() -> Tensor:
        with variant.inference():
            return denoise(faces.x_t, faces.t)

    return call


def train_call(variant: Variant, faces: Faces) -> Call:
    def call() -> None:
        variant.net.zero_grad(set_to_none=True)
        with variant.autocast():
            eps = variant.denoiser(variant.style(faces), faces.mask)(faces.x_t, faces.t)
        (eps.float() - faces.noise).square().mean().backward()

    return call


def image_call(variant: Variant, faces: Faces, first_stage: VQF4, params: Params) -> Call:
    def call() -> Tensor:
        with variant.inference():
            style = variant.style(faces)
            none, nothing = torch.zeros_like(style), torch.zeros_like(faces.mask)  # the published null of guidance
            denoise = variant.denoiser(torch.cat([style, none]), torch.cat([faces.mask, nothing]))

            def guided(x_t: Tensor, step: int) -> Tensor:
                t = torch.full((2 * len(x_t),), step, device=x_t.device)
                eps, eps_null = denoise(torch.cat([x_t, x_t]), t).chunk(2)
                return guide(eps, eps_null, params.sampling.guidance_scale)

            _, channels, height, width = faces.x_t.shape
            shape, seeds = (channels, height, width), list(range(len(faces.t)))
            latents = sample(guided, shape, seeds, params.diffusion, params.sampling, variant.device)
            return first_stage.decode(latents)

    return call


# --- the run ------------------------------------------------------------------------------------------


@dataclass
class Row:
    section: str
    variant: str
    gflop: float
    peak_gib: float | None
    difference: float
    """Largest difference from the first baseline's result, over the largest value; of gradients the worst tensor's."""
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def variants(config: ModelConfig, device: torch.device, training: bool, compiled: bool) -> list[Variant]:
    """All with the same weights. The second baseline has fused attention and channels-last memory."""
    torch.manual_seed(0)
    direct = Direct(config, LATENT_CHANNELS).to(device)
    fused = Direct(config, LATENT_CHANNELS, fused=True).to(device)
    fused.load_state_dict(direct.state_dict())
    channels_last(fused)
    ours = from_published(published(direct.state_dict())).to(device)
    channels_last(ours)
    half = ours
    if not training:
        half = copy.deepcopy(ours)
        cast_layers(half, torch.bfloat16)
    found = [
        Variant(DIRECT, direct, False, device),
        Variant("direct, bf16", direct, True, device),
        Variant("direct fused channels-last, fp32", fused, False, device),
        Variant(FUSED, fused, True, device),
        Variant("ours, fp32", ours, False, device),
        Variant("ours, bf16", half, True, device),
    ]
    if compiled:
        quick = copy.deepcopy(half)
        quick.unet.compile()
        quick.style_encoder.compile()
        found.append(Variant("ours, bf16, compiled", quick, True, device))
    return found


def gflop(config: ModelConfig, section: str, net: type[Direct] | type[SCADM], side: int) -> float:
    """Of one call, without the first stage; from shapes alone."""
    drawn = Faces.draw(1, side, torch.device("cpu"))
    with torch.device("meta"):
        variant = Variant("", net(config, LATENT_CHANNELS), False, torch.device("cpu"))
        faces = Faces(*(part.to("meta") for part in vars(drawn).values()))
        call = train_call(variant, faces) if section == "train" else step_call(variant, faces)
        with FlopCounterMode(display=False) as counter:
            call()
    return counter.get_total_flops() / 1e9


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of the tensor that differs most: its largest difference over its largest value.

    The latter counts as at least a thousandth of all tensors' largest: a bias before a norm that takes it away again
    has a gradient of rounding errors alone.
    """
    largest = {name: tensor.float().abs().max().item() for name, tensor in expected.items()}
    floor = 1e-3 * max(largest.values())
    return max(
        (found[name].float() - tensor.float()).abs().max().item() / max(largest[name], floor)
        for name, tensor in expected.items()
    )


@dataclass
class Subject:
    variant: Variant
    warm: Call
    call: Call


def measure(section: str, subjects: list[Subject], rounds: int, flops: Callable[[Variant], float]) -> list[Row]:
    """Each variant once to warm up and for its peak of memory; then in turns, the first time also for its result."""
    rows: list[Row] = []
    expected: dict[str, Tensor] = {}
    with bar((rounds + 1) * len(subjects), section, "calls") as progress:
        for subject in subjects:
            peak = peak_bytes(subject.warm, subject.variant.device)
            subject.variant.net.zero_grad(set_to_none=True)
            gib = None if peak is None else peak / 2**30
            rows.append(Row(section, subject.variant.name, flops(subject.variant), gib, 0.0, []))
            progress.update(1)
        for i in range(rounds):
            for row, subject in zip(rows, subjects, strict=True):
                variant = subject.variant
                synchronise(variant.device)
                since = time.perf_counter()
                output = subject.call()
                synchronise(variant.device)
                row.seconds.append(time.perf_counter() - since)
                if i == 0:
                    result = variant.gradients() if output is None else {"output": output}
                    expected = expected or result
                    row.difference = difference(result, expected)
                    del result
                variant.net.zero_grad(set_to_none=True)
                progress.update(1)
    return rows


def run(section: str, params: Params, device: torch.device, *, rounds: int, batch: int, compiled: bool) -> list[Row]:
    config, side = params.model, params.project.resolution
    faces = Faces.draw(batch, side, device)
    found = variants(config, device, section == "train", compiled)
    if section == "image":
        found = [variant for variant in found if variant.bf16 or variant is found[0]]  # the others take minutes each
        first_stage = VQF4(VQModel(**VQ_F4)).to(device).eval()
        short = params.model_copy(update={"sampling": params.sampling.model_copy(update={"steps": 2})})
        subjects = [
            Subject(
                variant, image_call(variant, faces, first_stage, short), image_call(variant, faces, first_stage, params)
            )
            for variant in found
        ]
    else:
        make = {"step": step_call, "train": train_call}[section]
        subjects = [Subject(variant, call := make(variant, faces), call) for variant in found]
    counted = {net: gflop(config, section, net, side) for net in (Direct, SCADM)}
    forwards = 2 * params.sampling.steps if section == "image" else 1
    return measure(section, subjects, rounds, lambda variant: forwards * counted[type(variant.net)] * batch)


VQ_F4 = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (128, 256, 512),
    "layers_per_block": 2,
    "latent_channels": LATENT_CHANNELS,
    "num_vq_embeddings": 8192,
    "vq_embed_dim": LATENT_CHANNELS,
}
"""The published first stage, as diffusers' configuration."""


def table(rows: list[Row], caption: str, matrix_rate: float) -> str:
    """Markdown, one table a section.

    How many times faster than direct fp32 and than fused bf16, and the share of `matrix_rate`, the GFLOP/s of a bf16
    matrix product on this device.
    """
    lines = [caption]
    for section in dict.fromkeys(row.section for row in rows):
        part = [row for row in rows if row.section == section]
        baselines = {row.variant: row.median for row in part if row.variant.startswith("direct")}
        lines += ["", f"**{section}**", ""]
        names = (
            "variant",
            "median s",
            "x direct",
            "x fused",
            "GFLOP",
            "GFLOP/s",
            "of bf16 rate",
            "peak GiB",
            "difference",
        )
        lines.append(f"| {' | '.join(names)} |")
        lines.append("| --- " + "| ---: " * 8 + "|")
        for row in part:
            rate = row.gflop / row.median
            lines.append(
                f"| {row.variant} | {row.median:.3g} | {baselines[DIRECT] / row.median:.2f} | "
                f"{baselines[FUSED] / row.median:.2f} | {row.gflop:.0f} | {rate:.0f} | {rate / matrix_rate:.0%} | "
                f"{'' if row.peak_gib is None else f'{row.peak_gib:.2f}'} | {row.difference:.1g} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--profile", default="celebamask-hq", help="whose model, diffusion and sampling are run")
    parser.add_argument("--rounds", type=int, default=5, help="of image a quarter of them (%(default)s)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also our model by torch.compile")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    params = parameters(arguments.profile)
    encoder = params.model.style_encoder.model_copy(update={"skip": "published", "colour_scale": False})
    params = params.model_copy(update={"model": params.model.model_copy(update={"style_encoder": encoder})})
    rows = []
    for section in arguments.sections:
        rounds = max(1, arguments.rounds // 4) if section == "image" else arguments.rounds
        rows += run(section, params, device, rounds=rounds, batch=arguments.batch, compiled=arguments.compile)
    rate = matrix_rate(device)
    caption = (
        f"{describe(device)}, {rate:.0f} GFLOP/s in a bf16 matrix product; torch {torch.__version__}; profile "
        f"{arguments.profile}, batch {arguments.batch}."
    )
    text = table(rows, caption, rate)
    print(text)
    name = Path(__file__).with_name(f"model-{device.type}")
    tree = {"caption": caption, "rows": [asdict(row) for row in rows]}
    name.with_suffix(".json").write_text(json.dumps(tree, indent=1) + "\n")
    name.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
