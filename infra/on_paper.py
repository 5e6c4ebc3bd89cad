"""What the paper's training takes on 1, 8 and 64 GPUs, reckoned from shapes and published figures: no GPU is needed.

`python -m infra.on_paper` prints the table that `infra/README.md` holds between its markers; with `--write` it puts it
there. FLOPs and parameters come from the model itself, the rate of the loader from a measurement; all else is
assumed, and named.
"""

import argparse
import math
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from scadm import profiles
from scadm.models.scadm import SCADM
from scadm.training.estimate import flops_per_image

README = Path(__file__).with_name("README.md")
BEGIN = "<!-- on paper: written by `make on-paper` -->"
END = "<!-- end of on paper -->"

PROFILE = "celebamask-hq"
GPUS = (1, 8, 64)
UTILISATION = 0.20
"""Of the peak, sustained by plain PyTorch in bf16 on a U-Net of convolutions and norms: assumed, not measured here.

Rates are proportional to it, and hours and costs inversely so, until something else is the limit.
"""
DECODED_PER_CORE = 770.0
"""Samples of 256 pixels a second that one core decodes (lossless WebP of 72 kB, and the mask).

Measured on 300 real faces on 2026-11-23, one AMD EPYC core of a virtual machine: 1.3 ms each.
"""
SLOW_NETWORK = 100.0  # Gb/s of a node: what an ordinary GPU instance has
UPDATE_PASSES = 13
"""Over the float32 parameters at each step, at least: the gradient's norm 1, its clipping 2, AdamW 7, the average 3."""
BACKWARD = 2 / 3  # of a step's FLOPs; DDP reduces the gradients during the last micro-batch's


@dataclass(frozen=True)
class Device:
    """One GPU of a rented node, in published figures."""

    name: str
    tflops: float
    """Peak of dense bf16."""
    memory: float
    """GB/s of its memory."""
    link: float
    """GB/s between the GPUs of a node, in each direction."""
    per_node: int
    network: float
    """Gb/s of a node."""
    dollars: float
    """An hour, on demand."""


# Peaks, memories and links: NVIDIA's data sheets "H100 Tensor Core GPU" (SXM: 1,979 TFLOP/s with sparsity, half of it
# dense; 3.35 TB/s; NVLink 900 GB/s in both directions), "A100 Tensor Core GPU" (SXM, 40 GB: 312; 1,555 GB/s; 600 GB/s),
# "L4 Tensor Core GPU" (242 with sparsity; 300 GB/s; no NVLink, PCIe Gen4 x16 64 GB/s in both directions).
# Networks: the EC2 instance type pages of P5, P4 and G6.
# Prices: EC2 on demand, Linux, us-east-1, an eighth of the instance: p5.48xlarge $55.04 and p4d.24xlarge $21.96 (as
# announced by AWS in June 2025), g6.48xlarge $13.35 (2024). They were not asked for again: prices move, spot is less.
DEVICES = (
    Device("H100 SXM (p5.48xlarge)", tflops=989, memory=3350, link=450, per_node=8, network=3200, dollars=55.04 / 8),
    Device("A100 SXM (p4d.24xlarge)", tflops=312, memory=1555, link=300, per_node=8, network=400, dollars=21.96 / 8),
    Device("L4 (g6.48xlarge)", tflops=121, memory=300, link=32, per_node=8, network=100, dollars=13.35 / 8),
)


@dataclass(frozen=True)
class Work:
    """A training, as far as its cost depends on it."""

    flops: float
    """Of one image, forward and backward."""
    gradients: float
    """Bytes of float32 that each worker reduces at each step."""
    images: int
    """In all."""
    batch: int
    micro_batch: int
    loader_threads: int


@cache
def the_paper_s() -> Work:
    """The training of profile celebamask-hq."""
    params = profiles.parameters(PROFILE)
    channels, resolution = params.autoencoder.network.latent_channels, params.project.resolution
    with torch.device("meta"):
        trained = sum(p.numel() for p in SCADM(params.model, channels).parameters() if p.requires_grad)
    return Work(
        flops=flops_per_image(params.model, channels, resolution),
        gradients=4 * trained,
        images=params.training.steps * params.training.batch_size,
        batch=params.training.batch_size,
        micro_batch=params.training.micro_batch,
        loader_threads=params.cluster.loader_threads,
    )


@dataclass(frozen=True)
class Plan:
    """A training on some GPUs of one kind, in nodes that are joined by a network."""

    work: Work
    device: Device
    gpus: int
    batch: int
    network: float
    """Gb/s of a node."""
    utilisation: float

    @property
    def busy(self) -> int:
        """GPUs that have an image: no batch can be cut into more pieces than it has images."""
        return min(self.gpus, self.batch)

    @property
    def images_each(self) -> int:
        """Of a step, on the worker that has the most of them, for which all others wait."""
        return math.ceil(self.batch / self.busy)

    @property
    def compute(self) -> float:
        """Seconds of a step."""
        return self.images_each * self.work.flops / (self.utilisation * self.device.tflops * 1e12)

    @property
    def in_node(self) -> float:
        """Seconds of a step that the gradients take between the GPUs of one node: a ring, 2 (n - 1) / n of them."""
        return _ring(min(self.busy, self.device.per_node)) * self.work.gradients / (self.device.link * 1e9)

    @property
    def between_nodes(self) -> float:
        """Seconds that they take between nodes: the ring once more, of whole nodes."""
        nodes = math.ceil(self.busy / self.device.per_node)
        return _ring(nodes) * self.work.gradients / (self.network / 8 * 1e9)

    @property
    def hideable(self) -> float:
        """Seconds of a step during which gradients can travel while others are computed."""
        micro_batches = math.ceil(self.images_each / self.work.micro_batch)
        return BACKWARD * self.compute / micro_batches

    @property
    def waited(self) -> float:
        """Seconds of a step in which nothing is computed, because gradients travel."""
        return max(0.0, self.in_node + self.between_nodes - self.hideable)

    @property
    def update(self) -> float:
        """Seconds of a step that the optimiser takes on each GPU, which holds all parameters: bound by its memory."""
        return UPDATE_PASSES * self.work.gradients / (self.device.memory * 1e9)

    @property
    def step(self) -> float:
        """Seconds."""
        return self.compute + self.waited + self.update

    @property
    def share_reducing(self) -> float:
        """Of a step in which gradients travel, computed beside or not."""
        return (self.in_node + self.between_nodes) / self.step

    @property
    def images_a_second(self) -> float:
        return self.batch / self.step

    @property
    def hours(self) -> float:
        return self.work.images / self.images_a_second / 3600

    @property
    def dollars(self) -> float:
        """Of all GPUs, idle ones too."""
        return self.hours * self.gpus * self.device.dollars

    def strains(self) -> dict[str, float]:
        """How near each assumption is to being wrong, by name: above 1 it is."""
        return {
            "batch": self.work.micro_batch / self.images_each,
            "loader": self.images_a_second / self.busy / (DECODED_PER_CORE * self.work.loader_threads),
            "update": self.update / self.compute,
            "all-reduce": (self.in_node + self.between_nodes) / self.hideable,
        }

    @property
    def breaks_first(self) -> str:
        name, strain = max(self.strains().items(), key=lambda item: item[1])
        return f"{name}, {strain:.1f} times" if strain > 1 else f"none ({name}, {strain:.2f})"


def _ring(members: int) -> float:
    """How many times the gradients' size each member sends in a ring all-reduce."""
    return 2 * (members - 1) / members


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _row(plan: Plan, slow: Plan) -> str:
    cells = (
        str(plan.gpus) if plan.busy == plan.gpus else f"{plan.gpus} ({plan.busy} busy)",
        f"{plan.batch}",
        f"{plan.images_each}",
        _number(plan.images_a_second),
        _number(plan.hours),
        f"{plan.dollars:,.0f}",
        f"{1e3 * plan.compute:.1f}",
        f"{1e3 * plan.update:.1f}",
        f"{1e3 * plan.in_node:.1f}",
        f"{1e3 * plan.between_nodes:.1f}",
        f"{plan.share_reducing:.0%}",
        f"{slow.share_reducing:.0%}, {_number(slow.hours)} h",
        plan.breaks_first,
    )
    return "| " + " | ".join(cells) + " |"


_HEAD = (
    "| GPUs | batch | images each | images/s | hours | $ | compute, ms | update, ms | all-reduce in a node, ms | "
    "between nodes, ms | reducing | reducing, and hours, at 100 Gb/s | breaks first |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)


def plans(work: Work, device: Device, network: float, utilisation: float) -> list[Plan]:
    """The paper's batch on each number of GPUs; then a micro-batch on each, where that is a larger batch."""
    wider = [(gpus, gpus * work.micro_batch) for gpus in GPUS if gpus * work.micro_batch > work.batch]
    return [
        Plan(work, device, gpus, batch, network, utilisation)
        for gpus, batch in [*((gpus, work.batch) for gpus in GPUS), *wider]
    ]


def report(work: Work, utilisation: float = UTILISATION) -> str:
    """The text and tables, as they stand in the README."""
    largest = GPUS[-1] * work.micro_batch
    idle = GPUS[-1] - work.batch
    parts = [
        f"{work.images / 1e6:.3f} M images ({work.images // work.batch:,} steps of {work.batch}) of "
        f"{work.flops / 1e12:.3f} TFLOP each, counted forward and backward, if a GPU sustains {utilisation:.0%} of its "
        f"peak (assumed). {work.gradients / 1e9:.2f} GB of float32 gradients are reduced at each step: each GPU, and "
        "each node, sends 2 (n - 1) / n of them over its link. *Reducing* is the part of a step in which gradients "
        "travel; what the backward pass of the last micro-batch does not hide is in the hours. *Update* is clipping, "
        f"AdamW and the moving average, {UPDATE_PASSES} passes over all parameters on each GPU.",
        "*Breaks first* is the assumption that is furthest beyond what it can bear, with the factor; with none, the "
        f"nearest. *batch*: a GPU has fewer images than a micro-batch of {work.micro_batch}, too few to reach the "
        "assumed rate. *update*: it takes longer than the images. *all-reduce*: gradients travel for longer than the "
        "backward pass that could hide them. "
        f"*loader*: more images than a worker's {work.loader_threads} threads decode, {DECODED_PER_CORE:.0f} a second "
        "each (measured on one core). Where the factor is above 1, the hours are the least that it can take.",
    ]
    for device in DEVICES:
        fast = plans(work, device, device.network, utilisation)
        slow = plans(work, device, min(device.network, SLOW_NETWORK), utilisation)
        rows = [_row(*pair) for pair in zip(fast, slow, strict=True)]
        title = f"**{device.name}**: {device.tflops:g} TFLOP/s, ${device.dollars:.2f} an hour each; "
        title += f"{device.link:g} GB/s between the {device.per_node} of a node, {device.network:g} Gb/s a node"
        parts.append("\n".join([title, "", _HEAD, *rows]))
    node, most = (Plan(work, DEVICES[0], gpus, work.batch, DEVICES[0].network, utilisation) for gpus in GPUS[1:])
    parts += [
        f"So one node is the right size for this batch: {most.gpus} GPUs of {DEVICES[0].name} would be "
        f"{node.hours / most.hours:.1f} times as fast as {node.gpus}, for {most.dollars / node.dollars:.1f} times the "
        f"money, if small batches cost nothing. A batch of {work.batch} occupies {work.batch} GPUs at most, with one "
        f"image each; {idle} of {GPUS[-1]} are paid for and idle.",
        f"To use {GPUS[-1]} GPUs well, each needs a micro-batch of {work.micro_batch}: a batch of {largest}, "
        f"{work.images // largest:,} steps for the same images. That is another training than the paper's, with a "
        "learning rate and a warm-up to be found, and no promise of the same faces: those rows are what the machines "
        "could do, not a recipe.",
    ]
    parts = [part if "|" in part else textwrap.fill(part, 120, break_on_hyphens=False) for part in parts]
    return "\n\n".join(parts)


def in_readme(text: str) -> str:
    """What stands between the markers of `text`. Raises ValueError if they are not there once each, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{README} needs the lines {BEGIN!r} and {END!r} once each, in this order.")
    return text.split(BEGIN)[1].split(END)[0].strip()


def put(readme: str, text: str) -> str:
    """`readme` with `text` between its markers. Raises ValueError as `in_readme`."""
    in_readme(readme)
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.on_paper", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help="of a GPU's peak (%(default)s)")
    parser.add_argument("--write", action="store_true", help=f"put it into {README.name} too")
    chosen = parser.parse_args()
    if not 0 < chosen.utilisation <= 1:
        parser.error(f"--utilisation {chosen.utilisation}, expected a share of the peak: above 0, at most 1")
    text = report(the_paper_s(), chosen.utilisation)
    print(text)
    if chosen.write:
        README.write_text(put(README.read_text(), text))


if __name__ == "__main__":
    main()
