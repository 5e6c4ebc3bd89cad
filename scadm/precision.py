"""How networks compute: in channels-last memory, and in mixed precision where that is asked for or the hardware's own.

Mixed precision is bf16 autocast: convolutions, linear layers and attention compute in bf16; the statistics of norms,
the loss and the sampler's state stay in float32.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from scadm.config import Precision

Autocast = Callable[[], AbstractContextManager[Any]]


def computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """`auto` is bf16 where the hardware computes in it."""
    return precision == "bf16" or (precision == "auto" and computes_in_bf16(device))


def mixed_precision(precision: Precision, device: torch.device) -> Autocast:
    """A factory of autocast contexts."""
    if uses_bf16(precision, device):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, also on a device that knows none, such as `meta`."""
    available = torch.amp.autocast_mode.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def channels_last(model: nn.Module) -> None:
    """Put the weights of convolutions into channels-last memory, in place.

    Feature maps follow: their pixels are then tokens as they are, and convolutions need no reordering.
    """
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def cast_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of convolutions and linear layers in place, for inference under autocast.

    Autocast would cast them again at every call: at the published size a quarter of a sampling step on a CPU. Norms
    keep float32.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.to(dtype)
