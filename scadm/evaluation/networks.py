from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Networks:
    lpips: Any = None
    inception: Any = None


def load_networks(folder: Any, device: Any) -> Networks:
    return Networks()
