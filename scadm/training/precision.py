"""Mixed precision: bf16 autocast where it is asked for, or where the hardware computes in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Autocast = Callable[[], AbstractContextManager[Any]]


def computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def mixed_precision(precision: str, device: torch.device) -> Autocast:
    """A factory of autocast contexts for training.precision; `auto` is bf16 where the hardware computes in it."""
    if precision == "bf16" or (precision == "auto" and computes_in_bf16(device)):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext
