"""Profiles: overlays in conf/ on the explained parameters of conf/base.yaml, written to params.yaml."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from scadm.config import Params, validate
from scadm.files.manifest import write_atomically

CONF = Path("conf")
PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Change:
    key: str
    before: Any
    after: Any


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def names(conf: Path = CONF) -> list[str]:
    return sorted(path.stem for path in conf.glob("*.yaml") if path.stem != "base")


def _overlay(tree: Any, overlay: Any) -> None:
    """Change values in place, so that the comments beside them stay."""
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _overlay(tree[key], value)
        else:
            tree[key] = value


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def render(name: str, conf: Path = CONF) -> str:
    """The text of params.yaml for a profile. Raises ValueError if it is unknown or not valid."""
    if name not in names(conf):
        raise ValueError(f"unknown profile {name!r}, expected one of {', '.join(names(conf))} (files in {conf}/)")
    yaml = _yaml()
    tree = yaml.load(conf / "base.yaml")
    _overlay(tree, yaml.load(conf / f"{name}.yaml") or {})
    validate(tree, f"profile {name}")
    tree.yaml_set_start_comment(f"Profile {name}, written by `scadm profile {name}`. Edit freely; see conf/.\n")
    text = io.StringIO()
    yaml.dump(tree, text)
    return text.getvalue()


def parameters(name: str, conf: Path = CONF) -> Params:
    """The parameters of a profile, whatever params.yaml holds. Raises ValueError as `render`."""
    return validate(_yaml().load(render(name, conf)), f"profile {name}")


def missing(params: Path = PARAMS) -> list[tuple[str, str]]:
    """Key and value of each parameter that names a file or folder which DVC watches, and which is not there."""
    tree = _yaml().load(params)
    named = (("data.path", tree["data"]["path"]), ("autoencoder.extra_images", tree["autoencoder"]["extra_images"]))
    return [(key, path) for key, path in named if not Path(path).exists()]


def write(name: str, conf: Path = CONF, params: Path = PARAMS) -> list[Change]:
    """Write a profile to params.yaml; returns what that changes."""
    text = render(name, conf)
    yaml = _yaml()
    before = _flat(yaml.load(params)) if params.is_file() else {}
    after = _flat(yaml.load(text))
    write_atomically(params, text)
    return [
        Change(key, before.get(key), after.get(key))
        for key in [*after, *(key for key in before if key not in after)]
        if before.get(key) != after.get(key)
    ]
