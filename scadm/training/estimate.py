"""What a training will cost, before it starts: parameters, FLOPs, memory, and time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from scadm.config import ModelConfig, TrainingConfig
from scadm.faces import NUM_CLASSES
from scadm.models.scadm import LATENT_FACTOR, SCADM

_STATE_BYTES = 20  # of a parameter: float32 weight, gradient, AdamW's two moments, and the moving average
_COPY_BYTES = 20  # copies of weight, average and moments for the checkpoint that is written, and of the best average
_READ_BYTES = 16  # a checkpoint's largest group, AdamW's moments, on its way to a GPU: the file, and its tensors


@dataclass(frozen=True)
class Estimate:
    parameters: int
    flops_per_image: int
    """Forward and backward."""
    state_bytes: int
    activation_bytes: int
    """Kept for the backward pass of one micro-batch."""

    @property
    def bytes(self) -> int:
        return self.state_bytes + self.activation_bytes

    @property
    def copy_bytes(self) -> int:
        """Of its machine's memory, which the first worker needs besides while a checkpoint is written."""
        return _COPY_BYTES * self.parameters

    def seconds(self, images: int, flops_per_second: float) -> float:
        return images * self.flops_per_image / flops_per_second


def _convolution_backward(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """FLOPs from shapes. Torch's own count takes the weight's gradient as if a grouped convolution had one group."""
    transposed, wanted = rest[-4], rest[-1]
    return conv_flop_count(x, weight, grad, transposed=transposed) * sum(wanted[:2])


def _denoised(model: SCADM, resolution: int, batch: int) -> Tensor:
    image = torch.empty(batch, 3, resolution, resolution)
    mask = torch.empty(batch, NUM_CLASSES, resolution, resolution)
    size = resolution // LATENT_FACTOR
    x_t, t = torch.empty(batch, model.latent_channels, size, size), torch.zeros(batch)
    return model.denoise(x_t, t, model.condition(model.encode_style(image, mask), mask))


def flops_per_image(config: ModelConfig, latent_channels: int, resolution: int) -> int:
    """Of one image, forward and backward; on the meta device, where nothing is computed or allocated."""
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with torch.device("meta"), counter:
        _denoised(SCADM(config, latent_channels), resolution, 1).square().mean().backward()
    return counter.get_total_flops()


def _saved_bytes(config: ModelConfig, latent_channels: int, resolution: int, batch: int, bf16: bool) -> int:
    """Kept for the backward pass, weights themselves left out; on fake tensors, which follow autocast's types."""
    saved: dict[int, int] = {}
    kept: list[Tensor] = []  # keeps the counted tensors alive, so that no id is used twice

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        saved[id(tensor)] = tensor.numel() * tensor.element_size()
        return tensor

    with (
        FakeTensorMode(),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model = SCADM(config, latent_channels)
        _denoised(model, resolution, batch)
        weights = {id(parameter) for parameter in model.parameters()}
    return sum(size for key, size in saved.items() if key not in weights)


def estimate(config: ModelConfig, latent_channels: int, resolution: int, training: TrainingConfig) -> Estimate:
    """From shapes alone; `auto` precision counts as bf16. A GPU keeps some norms in float32 and so a little more."""
    bf16 = training.precision != "fp32"
    one, two = (_saved_bytes(config, latent_channels, resolution, batch, bf16) for batch in (1, 2))
    with torch.device("meta"):
        model = SCADM(config, latent_channels)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Estimate(
        parameters=parameters,
        flops_per_image=flops_per_image(config, latent_channels, resolution),
        state_bytes=_STATE_BYTES * parameters,
        # One image more costs two - one; the rest, such as weights cast to bf16, is saved once.
        activation_bytes=one + (training.micro_batch - 1) * (two - one),
    )


def host_bytes(parameters: int, workers: int, use_gpu: bool) -> int:
    """The part of a machine's memory that grows with the parameters, where all `workers` are on it."""
    if use_gpu:  # reading is over before anything is written
        return (_COPY_BYTES + (workers - 1) * _READ_BYTES) * parameters
    return (_COPY_BYTES + workers * _STATE_BYTES) * parameters


def _duration(hours: float) -> str:
    return f"{hours:.2g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def describe(found: Estimate, training: TrainingConfig, *, workers: int, use_gpu: bool) -> str:
    """What to expect, for the person who is about to start it."""
    images = training.steps * training.batch_size
    rate = 50e12 if use_gpu else 0.02e12  # a plain bf16 training sustains about this on one card or one core
    hours = found.seconds(images, max(workers, 1) * rate) / 3600
    return (
        f"{found.parameters / 1e6:.1f} M parameters, {found.flops_per_image / 1e9:.1f} GFLOP an image (forward and "
        f"backward), about {found.bytes / 2**30:.2f} GiB a worker: {found.state_bytes / 2**30:.2f} for weights, "
        f"gradients, AdamW and EMA, {found.activation_bytes / 2**30:.2f} for a micro-batch "
        f"of {training.micro_batch}. While a checkpoint is written, the first worker's machine holds up to "
        f"{found.copy_bytes / 2**30:.2f} GiB more.\n"
        f"{training.steps} steps of {training.batch_size} images are "
        f"{images * found.flops_per_image / 1e15:.3g} PFLOP, {_duration(hours)} if each of {max(workers, 1)} "
        f"{'GPU(s)' if use_gpu else 'core(s)'} sustains {rate / 1e12:g} TFLOP/s."
    )
