"""The published networks that metrics rest on: AlexNet or VGG-16 for LPIPS, Inception for FID.

Numbers that can be held against other papers' need the weights that those papers used. They are not the project's to
give: a parameter names where they are, the stage `parser` takes them in beside the face parser, and where none are
named the metrics that rest on them are left out. Nothing here fetches anything, and nothing that is pickled is run.
"""

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.backends import cudnn

from scadm.files.manifest import require_same, sha256, write_json
from scadm.pixels import Images, as_tensor, to_signed
from scadm.precision import full_precision

FOLDER = "networks"
CONFIG_NAME = "config.json"
LPIPS_NAME = "lpips.pt"
INCEPTION_NAME = "inception.pth"
INSTALL = "pip install -c constraints.txt -e '.[metrics]'"

_REMAKE = "Delete the parser's folder and run `dvc repro`, which makes it again."


class Perceptual:
    """LPIPS v0.1 (Zhang et al. 2018): how different two images look, 0 for equal ones.

    `weights` is a state dict as torch saves it, with the backbone as torchvision names it (`features.N.weight`,
    `features.N.bias`; a `classifier` is not used) and the five linear layers `linK.weight`; a file without these, such
    as torchvision's own checkpoint, goes with the published ones, which torchmetrics brings along. Which backbone it
    is, the weights' shapes tell. Raises ValueError for any other content.
    """

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        _require_package("torchvision", "metrics.lpips")
        state = _read(weights, "metrics.lpips")
        self.backbone = _backbone(state, weights)
        self.device = torch.device(device)
        self.network = _lpips(self.backbone, state, weights).to(self.device)

    @property
    def name(self) -> str:
        """Names the metric: LPIPS of two backbones are not comparable."""
        return f"lpips_{self.backbone}"

    @property
    def least_side(self) -> int:
        """Of images, in pixels: the pooling of smaller ones leaves nothing for the last layer."""
        return {"alex": 31, "vgg": 16}[self.backbone]

    @torch.inference_mode()
    def distance(self, images: Images, others: Images) -> NDArray[np.float64]:
        """Distance of each image (B, H, W, 3) from its other: (B,), from 0 up.

        Each pair by itself, beyond the last digits of float32. Raises ValueError if shapes differ or a side is below
        `least_side`.
        """
        if images.shape != others.shape:
            raise ValueError(
                f"LPIPS was asked for images {images.shape} against {others.shape}, expected equal shapes: they are "
                "compared cell by cell. Bring both to one resolution first."
            )
        if min(images.shape[1:3]) < self.least_side:
            raise ValueError(
                f"LPIPS was asked for images of {images.shape[1]} x {images.shape[2]} pixels, expected at least "
                f"{self.least_side} on each side for the backbone {self.backbone}: of smaller ones its last layer sees "
                "nothing. Raise project.resolution, or set metrics.lpips to null."
            )
        with _exact(self.device):
            found = self.network(to_signed(images, self.device), to_signed(others, self.device))  # (B, 1, 1, 1)
        return found.flatten().double().cpu().numpy()


class Inception:
    """The network of FID: Inception of 2015 in TensorFlow's own arithmetic, through torch-fidelity.

    `weights` is torch-fidelity's file of it. Raises ValueError for any other content.
    """

    name = "inception"

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        package = _require_package("torch_fidelity", "metrics.inception")
        _read(weights, "metrics.inception")  # the package would run what is pickled in it
        self.device = torch.device(device)
        try:
            # Its random weights, before it reads the file, are no business of who draws numbers here.
            with torch.random.fork_rng(devices=[]):
                network = package.FeatureExtractorInceptionV3(
                    self.name, ["2048"], feature_extractor_weights_path=str(weights)
                )
        except RuntimeError as error:
            raise ValueError(_unfit(weights, "metrics.inception", " ".join(str(error).split())[:300])) from None
        self.network: nn.Module = network.to(self.device)

    @torch.inference_mode()
    def features(self, images: Images) -> NDArray[np.float32]:
        """Pooled features (B, 2048) of images (B, H, W, 3) of any size, resized as TensorFlow did."""
        pixels = as_tensor(images).to(self.device).permute(0, 3, 1, 2)
        with _exact(self.device):
            (found,) = self.network(pixels)
        return found.float().cpu().numpy()


@dataclass(frozen=True)
class Networks:
    """What there is; None where the parameters name no weights."""

    lpips: Perceptual | None = None
    inception: Inception | None = None


def save_networks(folder: Path, lpips: Path | None, inception: Path | None) -> None:
    """Copy weights into `folder`/networks, with what they are; without any, nothing is written.

    Raises ValueError if a file is missing or not what it should be, or its package is not installed.
    """
    tree: dict[str, Any] = {}
    if lpips is not None:
        tree["lpips"] = {"kind": Perceptual(lpips).name}
        _copy(lpips, folder / FOLDER / LPIPS_NAME, tree["lpips"])
    if inception is not None:
        tree["inception"] = {"kind": Inception(inception).name}
        _copy(inception, folder / FOLDER / INCEPTION_NAME, tree["inception"])
    if tree:
        write_json(folder / FOLDER / CONFIG_NAME, tree)


def load_networks(folder: Path, device: torch.device | str = "cpu") -> Networks:
    """The networks that `save_networks` left in `folder`.

    Raises ValueError if a file is not the one that was saved, or its package is not installed.
    """
    path = folder / FOLDER / CONFIG_NAME
    if not path.is_file():
        return Networks()
    tree = json.loads(path.read_text())
    lpips = inception = None
    if "lpips" in tree:
        lpips = Perceptual(_saved(folder / FOLDER / LPIPS_NAME, tree["lpips"]), device)
        require_same(f"the network of {folder / FOLDER / LPIPS_NAME}", lpips.name, tree["lpips"]["kind"], _REMAKE)
    if "inception" in tree:
        inception = Inception(_saved(folder / FOLDER / INCEPTION_NAME, tree["inception"]), device)
    return Networks(lpips, inception)


def _copy(weights: Path, target: Path, entry: dict[str, Any]) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(weights, target)
    entry["sha256"] = sha256(target)


def _saved(path: Path, entry: Mapping[str, Any]) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing, {CONFIG_NAME} beside it lists it. {_REMAKE}")
    require_same(f"the sha256 of {path}", sha256(path), entry["sha256"], _REMAKE)
    return path


# --- weights --------------------------------------------------------------------------------------------


def _require_package(name: str, parameter: str) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a build for another torch
        raise ValueError(
            f"{parameter} names a network for which {name} is needed, and that cannot be loaded ({error}): its metric "
            f"cannot be measured. Install it with {INSTALL}, or set {parameter} to null."
        ) from None


def _read(path: Path, parameter: str) -> dict[str, Tensor]:
    """A state dict on the CPU. Raises ValueError if the file is missing or holds anything else."""
    if not path.is_file():
        raise ValueError(
            f"{parameter} is {path}, where there is no file, so its metric cannot be measured. Put the weights there, "
            f"correct {parameter}, or set it to null."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(_unfit(path, parameter, f"it cannot be read ({str(error).splitlines()[0]})")) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(_unfit(path, parameter, f"it holds {type(state).__name__}, not tensors by name"))
    return dict(state)


def _backbone(state: Mapping[str, Tensor], path: Path) -> Literal["alex", "vgg"]:
    """Told from the first layer's weights."""
    first = state.get("features.0.weight")
    match None if first is None else tuple(first.shape):
        case (64, 3, 11, 11):
            return "alex"
        case (64, 3, 3, 3):
            return "vgg"
        case shape:
            raise ValueError(
                _unfit(path, "metrics.lpips", f"features.0.weight is {shape}, which neither AlexNet nor VGG-16 has")
            )


def _lpips(backbone: Literal["alex", "vgg"], state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network with the weights of `state`, every one of them and no other."""
    from torchmetrics.functional.image import lpips

    with torch.device("meta"):  # no memory and no random numbers for what is replaced
        network = lpips._LPIPS(pretrained=False, net=backbone, pnet_rand=True, use_dropout=False)
    network.scaling_layer = lpips.ScalingLayer()  # two constants, which no file holds
    given = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    if not any(key.startswith("lin") for key in given):
        layers = Path(lpips.__file__).parent / "lpips_models" / f"{backbone}.pth"
        published = torch.load(layers, map_location="cpu", weights_only=True)
        given |= {f"{key.split('.')[0]}.weight": value for key, value in published.items()}
    names = {key: _name_in_file(key) for key in network.state_dict()}
    wanted = {names[key]: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in given.items()}
    if found != wanted:
        odd = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        what = "; ".join(f"{key} is {found.get(key, 'missing')}, expected {wanted.get(key, 'none')}" for key in odd[:3])
        raise ValueError(_unfit(path, "metrics.lpips", what))
    network.load_state_dict({key: given[name].float() for key, name in names.items()}, strict=True, assign=True)
    return network.eval()


def _name_in_file(key: str) -> str:
    """`net.slice2.3.bias` is features.3.bias; `lin0.model.0.weight`, also listed as `lins.0.model.0.weight`, lin0's."""
    parts = key.split(".")
    match parts[0]:
        case "net":
            return f"features.{parts[2]}.{parts[3]}"
        case "lins":
            return f"lin{parts[1]}.weight"
    return f"{parts[0]}.weight"


def _unfit(path: Path, parameter: str, why: str) -> str:
    return (
        f"{path} does not hold the weights of {parameter}: {why}. Its metric would be of another network than it says: "
        f"name the right file, as conf/base.yaml describes it, or set {parameter} to null."
    )


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Float32 in full: without autocast, and without the shorter mantissa in which cards multiply by default."""
    with full_precision(device), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
        yield
