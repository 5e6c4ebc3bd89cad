"""Face parsers behind one interface: what the evaluation asks for the class of each pixel, and for features.

A metric is named after the parser that measured it, because numbers of two parsers are not comparable.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scadm import faces
from scadm.config import ParserConfig
from scadm.files.manifest import digest, require_same, sha256, write_json
from scadm.models.parser import FaceParser
from scadm.pixels import Images, Labels, to_signed, to_unit

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "parser.safetensors"
TORCHSCRIPT_NAME = "parser.pt"

_REMAKE = "Delete the parser's folder and run `dvc repro`, which makes it again."


class Reading(NamedTuple):
    """What a parser says of B images."""

    labels: Labels
    """Class ids (B, H, W), in the official order."""
    features: NDArray[np.float32]
    """Pooled features (B, F) for the Frechet distance."""


class Parser(Protocol):
    """Reads images uint8 (B, H, W, 3) in batches of any size; the result does not depend on the batching."""

    @property
    def name(self) -> str:
        """Names the metrics that rest on this parser."""
        ...

    def read(self, images: Images) -> Reading:
        """Labels and features from one pass."""
        ...

    def parse(self, images: Images) -> Labels:
        """Class ids uint8 (B, H, W)."""
        return self.read(images).labels

    def features(self, images: Images) -> NDArray[np.float32]:
        """Features float32 (B, F)."""
        return self.read(images).features

    def save(self, folder: Path) -> None:
        """Write all that `load_parser` needs into an existing folder."""
        ...


class SmallParser(Parser):
    """The project's own parser, for images of the size that it was trained on."""

    def __init__(self, network: FaceParser, resolution: int, device: torch.device | str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.resolution = resolution
        self.device = device

    @property
    def name(self) -> str:
        return f"small-{self.resolution}"

    @property
    def fingerprint(self) -> str:
        """Sha256 over the configuration and the weights."""
        return _fingerprint(self._configuration(), self.network.state_dict())

    @torch.inference_mode()
    def read(self, images: Images) -> Reading:
        height, width = images.shape[1:3]
        if (height, width) != (self.resolution, self.resolution):
            raise ValueError(
                f"the parser {self.name} was given images of {height} x {width}, expected {self.resolution} x "
                f"{self.resolution}: at another size its labels mean little. Run `dvc repro parser` to train it at "
                "this size."
            )
        logits, features = self.network.parse(to_signed(images, self.device))
        return Reading(_classes(logits), features.cpu().numpy())

    def save(self, folder: Path) -> None:
        weights = {key: value.cpu().contiguous() for key, value in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS_NAME)
        write_json(folder / CONFIG_NAME, self._configuration() | {"fingerprint": self.fingerprint})

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "SmallParser":
        """Read what `save` wrote. Raises ValueError if labels, weights or fingerprint do not fit."""
        tree = _read_config(folder)
        faces.require_labels(tree["labels"], str(folder / CONFIG_NAME))
        network = FaceParser(ParserConfig.model_validate(tree["network"]))
        weights = load_file(folder / WEIGHTS_NAME)
        try:
            network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder / WEIGHTS_NAME} does not fit {CONFIG_NAME}: {reason} {_REMAKE}") from None
        parser = cls(network, tree["resolution"], device)
        require_same(f"the fingerprint of {folder}", parser.fingerprint, tree["fingerprint"], _REMAKE)
        return parser

    def _configuration(self) -> dict[str, Any]:
        return {
            "kind": "small",
            "labels": list(faces.LABELS),
            "resolution": self.resolution,
            "network": self.network.config.model_dump(mode="json"),
        }


class TorchScriptParser(Parser):
    """Any scripted network from float (B, 3, H, W) in [0, 1] to logits (B, 19, h, w) in the official order.

    Logits of another size are resized bilinearly to the image's. Features are the logits' mean over the
    picture, (B, 19): what share of the face, and how surely, each class is.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.path = path
        self.device = device
        self.sha256 = sha256(_require_weights(path))
        try:
            self.network: nn.Module = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(
                f"{path} is not a TorchScript file ({str(error).splitlines()[0]}). Without it no mask can be "
                "measured: save the network with torch.jit.script(network).save(path)."
            ) from None

    @property
    def name(self) -> str:
        return f"torchscript-{self.sha256[:8]}"

    @torch.inference_mode()
    def read(self, images: Images) -> Reading:
        logits = self.network(to_unit(images, self.device))
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != faces.NUM_CLASSES:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{self.path} returned {found}, expected one tensor of logits (B, {faces.NUM_CLASSES}, h, w). "
                "Its answer cannot be read as parts of a face: wrap the network so that it returns the logits "
                "in the order of scadm.faces.LABELS."
            )
        return _from_logits(logits, images.shape[1:3])

    def save(self, folder: Path) -> None:
        shutil.copyfile(self.path, folder / TORCHSCRIPT_NAME)
        tree = {"kind": "torchscript", "labels": list(faces.LABELS), "sha256": self.sha256}
        write_json(folder / CONFIG_NAME, tree)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "TorchScriptParser":
        """Read what `save` wrote. Raises ValueError if labels or content differ."""
        tree = _read_config(folder)
        faces.require_labels(tree["labels"], str(folder / CONFIG_NAME))
        parser = cls(folder / TORCHSCRIPT_NAME, device)
        require_same(f"the sha256 of {parser.path}", parser.sha256, tree["sha256"], _REMAKE)
        return parser


FACER_NAMES: dict[str, str] = {
    "background": "background",
    "neck": "neck",
    "face": "skin",
    "cloth": "cloth",
    "rr": "l_ear",
    "lr": "r_ear",
    "rb": "l_brow",
    "lb": "r_brow",
    "re": "l_eye",
    "le": "r_eye",
    "nose": "nose",
    "imouth": "mouth",
    "llip": "l_lip",
    "ulip": "u_lip",
    "hair": "hair",
    "eyeg": "eye_g",
    "hat": "hat",
    "earr": "ear_r",
    "neck_l": "neck_l",
}
"""Facer's name of each class, in facer's order, and the official name.

Facer's r is the right of the picture, where the official masks have what is the person's left, l: FaRL, whose network
this is, was trained with the files `*_l_eye.png` as the class that it calls re (farl/datasets/celebamask_hq.py in
github.com/FacePerceiver/FaRL), and likewise for brows and ears. `require_sides` holds a parser against real masks.
"""


class FacerParser(Parser):
    """FaRL's face parser for CelebAMask-HQ, through the package facer.

    The faces are taken as aligned like CelebA-HQ's: they are resized to 448 pixels and parsed without detection.
    Features are the logits' mean over the picture, (B, 19). `model_path` None leaves the weights to facer's own
    cache, which it fills from the network when they are missing.
    """

    CONF_NAME = "farl/celebm/448"
    SIDE = 448

    def __init__(self, model_path: Path | None, device: torch.device | str = "cpu") -> None:
        try:
            import facer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                f"the parser 'facer' cannot be loaded ({error}), so masks cannot be measured with it. Install it "
                "with pip install -e '.[faces]', or set parser.kind to small or torchscript."
            ) from None
        path = None if model_path is None else str(_require_weights(model_path))
        self.model_path = model_path
        self.device = device
        self.parser: Any = facer.face_parser(self.CONF_NAME, device=torch.device(device), model_path=path)
        self.order = torch.from_numpy(official_order(self.parser.label_names)).to(device)

    @property
    def name(self) -> str:
        return "farl-celebm-448"

    @torch.inference_mode()
    def read(self, images: Images) -> Reading:
        pixels = to_unit(images, self.device)
        # Antialiased, because larger pictures shrink; rounding may leave [0, 1], which facer refuses.
        resized = F.interpolate(pixels, size=(self.SIDE, self.SIDE), mode="bilinear", antialias=True).clamp(0, 1)
        logits = self.parser.forward_warped(resized, return_preds=False)  # (B, 19, h, w), facer's order
        return _from_logits(logits[:, self.order], images.shape[1:3])

    def save(self, folder: Path) -> None:
        content = None
        if self.model_path is not None:
            shutil.copyfile(self.model_path, folder / TORCHSCRIPT_NAME)
            content = sha256(self.model_path)
        write_json(folder / CONFIG_NAME, {"kind": "facer", "labels": list(faces.LABELS), "sha256": content})

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "FacerParser":
        """Read what `save` wrote. Raises ValueError if labels or content differ, or facer is not installed."""
        tree = _read_config(folder)
        faces.require_labels(tree["labels"], str(folder / CONFIG_NAME))
        if tree["sha256"] is None:
            return cls(None, device)
        path = _require_weights(folder / TORCHSCRIPT_NAME)
        require_same(f"the sha256 of {path}", sha256(path), tree["sha256"], _REMAKE)
        return cls(path, device)


def official_order(names: list[str]) -> NDArray[np.int64]:
    """Position in facer's `names` of each official class (19,): logits[:, order] are in the official order.

    Raises ValueError unless `names` are the classes of `FACER_NAMES`, in any order.
    """
    if sorted(names) != sorted(FACER_NAMES):
        raise ValueError(
            f"facer's parser has the classes {list(names)}, expected {list(FACER_NAMES)} in any order. Its masks "
            f"cannot be mapped to the official classes: use the model {FacerParser.CONF_NAME}."
        )
    position = {FACER_NAMES[name]: i for i, name in enumerate(names)}
    return np.array([position[label] for label in faces.LABELS])


def require_sides(parser: Parser, images: Images, labels: Labels) -> None:
    """Raise ValueError if a parser calls left what the masks (B, H, W) of images (B, H, W, 3) call right.

    Of the pixels of eyes, brows and ears it then names more as the masks do once their sides are exchanged, which no
    parser does that merely misses them.
    """
    found = parser.parse(images)
    sided = faces.MIRROR[labels] != labels
    same, exchanged = (int((named == labels)[sided].sum()) for named in (found, faces.MIRROR[found]))
    if exchanged > 2 * same:
        raise ValueError(
            f"the parser {parser.name} agrees with the masks in {same} of {int(sided.sum())} pixels of eyes, brows and "
            f"ears, and with their sides exchanged in {exchanged}, expected the reverse: in CelebAMask-HQ l_eye is the "
            "person's left one, at the right of the picture. Every mIoU would be wrong by six classes: exchange left "
            "and right in the parser's answer, or in the masks if it is they that are mirrored."
        )


def load_parser(folder: Path, device: torch.device | str = "cpu") -> Parser:
    """The parser that `save` wrote into `folder`. Raises ValueError if it is missing, unknown or damaged."""
    kind = _read_config(folder)["kind"]
    match kind:
        case "small":
            return SmallParser.load(folder, device)
        case "torchscript":
            return TorchScriptParser.load(folder, device)
        case "facer":
            return FacerParser.load(folder, device)
    raise ValueError(f"{folder / CONFIG_NAME} has kind {kind!r}, expected small, torchscript or facer. {_REMAKE}")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{path} does not exist, so {folder} holds no parser. Run `dvc repro parser` to make it.")
    return json.loads(path.read_text())


def _require_weights(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"the parser's weights {path} do not exist, so no mask can be measured. Put the file there, or correct "
            "parser.weights."
        )
    return path


def _from_logits(logits: Tensor, size: tuple[int, int]) -> Reading:
    """Labels at the images' (H, W) and mean logits from logits (B, 19, h, w) in the official order."""
    features = logits.float().mean(dim=(2, 3))  # (B, 19)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return Reading(_classes(logits), features.cpu().numpy())


def _classes(logits: Tensor) -> Labels:
    return logits.argmax(dim=1).to(torch.uint8).cpu().numpy()


def _fingerprint(configuration: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256(digest(dict(configuration)).encode())
    for key in sorted(weights):
        whole.update(key.encode())
        whole.update(weights[key].cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()
