"""The weights that a training starts from, and whether they fit it."""

import re
import shlex
from typing import Any, NamedTuple

from scadm.config import Params, flatten
from scadm.files.checkpoint import read_checkpoint
from scadm.files.manifest import require_same
from scadm.files.store import Store
from scadm.first_stage import LatentScale
from scadm.synthesis import GuidanceNull

_SAME = ("timesteps", "beta_start", "beta_end", "prediction", "normalise_latents")
"""Of the diffusion: what the weights were trained for. Shares and loss weights may change."""


class Start(NamedTuple):
    scale: LatentScale
    guidance_null: GuidanceNull


def read_start(place: str, params: Params, autoencoder: str) -> Start:
    """What a checkpoint says of itself. Raises ValueError unless it fits `params` and the shards' `autoencoder`."""
    _, config = read_checkpoint(Store(place), [])
    changes = settings(config, params)
    if changes:
        raise ValueError(
            f"the weights in {place} are of another model than params.yaml describes; training.init_from expects the "
            f"weights' own: {', '.join(changes)}. Set these, for example by `dvc exp run {flags(changes)}`."
        )
    require_same(
        f"the autoencoder of the weights in {place}",
        config["autoencoder"],
        autoencoder,
        "Its latents mean something else to another one: use the autoencoder that these weights were trained with.",
    )
    return Start(LatentScale(tuple(config["latent_mean"]), tuple(config["latent_std"])), config["guidance_null"])


def settings(config: dict[str, Any], params: Params) -> list[str]:
    """The parameters, as `section.key=value`, that a checkpoint's configuration has otherwise than `params`."""
    own = params.model_dump(mode="json")
    theirs = {f"model.{key}": value for key, value in flatten(config["model"]).items()}
    theirs |= {f"diffusion.{key}": str(config["diffusion"][key]) for key in _SAME}
    ours = flatten({"model": own["model"], "diffusion": own["diffusion"]})
    # Dropout belongs to a training, not to weights.
    return [f"{key}={value}" for key, value in theirs.items() if ours.get(key) != value and key != "model.unet.dropout"]


def setting(key: str, text: str) -> str:
    """A parameter that is a text, as `section.key=value` in the grammar of Hydra, which `dvc exp run -S` reads."""
    if re.fullmatch(r"[\w./:@-]+", text):
        return f"{key}={text}"
    # Within quotes, only a quote is escaped, and backslashes before one.
    return f"{key}='" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (found[2] and r"\'"), text) + "'"


def flags(changes: list[str]) -> str:
    """The same as arguments of `dvc exp run`, for a shell."""
    return " ".join(f"-S {shlex.quote(change)}" for change in changes)
