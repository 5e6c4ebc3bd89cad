"""Metrics against what others have written, or against their formula written out: another way to the same number.

LPIPS with its genuine weights is compared where `../shared` holds them. Of Inception only random weights are at hand
(tests/test_networks.py); its arithmetic is torch-fidelity's.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from toy_faces import ToyFaces

from scadm.evaluation.metrics import class_iou, confusion_matrix, mean_iou, ssim
from scadm.evaluation.networks import Perceptual
from scadm.faces import LABELS
from scadm.pixels import Images


def alike(count: int, side: int, noise: int, seed: int = 0) -> tuple[Images, Images]:
    """Pictures with structure at several scales, and others with noise up to `noise` on them."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.random((count, 3, 6, 6)))
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 255
    images = smooth.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    change = random.integers(-noise, noise + 1, images.shape)
    return images, (images.astype(np.int64) + change).clip(0, 255).astype(np.uint8)


# --- SSIM -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [3, 20, 120])
def test_ssim_is_scikit_image_s(noise: int) -> None:
    """Its map equals ours but for the borders, where the window does not fit, and which its own mean leaves out.

    Both then mirror the picture, scikit-image with the pixel at the edge and ours without. Ours counts these 5 pixels
    on each side too, so the two means of a whole picture are close, and those of the inside equal (up to float32).
    """
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    images, others = alike(4, 64, noise)
    ours = ssim(others, images)
    for image, other, found in zip(images, others, ours, strict=True):
        mean, whole = structural_similarity(
            *(image / 255, other / 255),
            **{"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0},
            **{"channel_axis": 2, "full": True},
        )
        assert whole[5:-5, 5:-5].mean() == pytest.approx(mean, abs=1e-12), "its mean is that of the inside"
        assert found == pytest.approx(whole.mean(), abs=2e-3), "of which the borders are a third"
        assert _ours_inside(other, image) == pytest.approx(mean, abs=1e-5)


def _ours_inside(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Mean of our map without 5 pixels at each border: torchmetrics gives the map beside the means."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    from scadm.pixels import to_unit

    value, whole = structural_similarity_index_measure(
        *(to_unit(image[None]), to_unit(truth[None])), data_range=1.0, reduction="none", return_full_image=True
    )
    assert float(whole.mean()) == pytest.approx(float(value), abs=1e-6), "ours is the mean of the whole map"
    return float(whole[..., 5:-5, 5:-5].mean())


# --- intersection over union ----------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 7, 19])
def test_iou_is_scikit_learn_s(classes: int) -> None:
    """Of the classes that the truth shows; one that is found where none is counts against those, not by itself."""
    jaccard_score = pytest.importorskip("sklearn.metrics").jaccard_score
    random = np.random.default_rng(classes)
    truth = random.integers(0, classes, (3, 20, 20)).astype(np.uint8)
    right = random.random(truth.shape) < 0.6
    found = np.where(right, truth, random.integers(0, 19, truth.shape)).astype(np.uint8)
    shown = np.unique(truth)
    confusion = confusion_matrix(found, truth)
    theirs = jaccard_score(truth.ravel(), found.ravel(), labels=shown, average=None)
    ours = class_iou(confusion)
    assert list(ours) == [LABELS[k] for k in shown]
    np.testing.assert_allclose(list(ours.values()), theirs, rtol=1e-12)
    mean = jaccard_score(truth.ravel(), found.ravel(), labels=shown, average="macro")
    assert mean_iou(confusion) == pytest.approx(mean, rel=1e-12)


# --- LPIPS ----------------------------------------------------------------------------------------------

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's means and standard deviations, for pixels in [-1, 1]."""
POOLED = {"alex": (3, 2), "vgg": (2, 2)}
"""Window and stride of max pooling."""
COMPARED = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28)}
"""Convolutions behind whose ReLU features are compared (conv1 to conv5; conv1_2 to conv5_3)."""
BEFORE_POOLING = {"alex": (0, 3), "vgg": (2, 7, 14, 21)}


def features(state: Mapping[str, Tensor], backbone: str, images: Images) -> list[Tensor]:
    """What the backbone sees in images (B, H, W, 3), (B, C, h, w) of each compared layer, in float64."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    shift, scale = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in (SHIFT, SCALE))
    x, found = (pixels - shift) / scale, []
    for place in sorted(int(key.split(".")[1]) for key in state if key.startswith("features") and "bias" in key):
        weight, bias = (state[f"features.{place}.{name}"].double() for name in ("weight", "bias"))
        first = backbone == "alex" and place == 0
        x = F.conv2d(x, weight, bias, stride=4 if first else 1, padding=2 if first else weight.shape[2] // 2).relu()
        if place in COMPARED[backbone]:
            found.append(x)
        if place in BEFORE_POOLING[backbone]:
            x = F.max_pool2d(x, *POOLED[backbone])
    return found


def by_formula(state: Mapping[str, Tensor], backbone: str, images: Images, others: Images) -> NDArray[np.float64]:
    """Zhang et al. 2018, Eq. 1: sum over layers of the mean over pixels of |w (y - y0)|^2, channels normalised."""
    total = torch.zeros(len(images), dtype=torch.float64)
    pairs = zip(features(state, backbone, images), features(state, backbone, others), strict=True)
    for k, (y, y0) in enumerate(pairs):
        unit, unit0 = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-10) for z in (y, y0))
        weights = state[f"lin{k}.weight"].double().flatten()
        total += torch.einsum("bchw,c->bhw", (unit - unit0) ** 2, weights).mean(dim=(1, 2))
    return total.numpy()


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
@pytest.mark.parametrize("kind", ["faces", "noise"])
def test_lpips_is_its_formula_with_the_genuine_weights(shared: Path, backbone: str, kind: str) -> None:
    pytest.importorskip("torchvision", reason="needs torchvision (pip install '.[metrics]')", exc_type=ImportError)
    path = shared / "weights" / f"lpips_{backbone}.pt"
    if not path.is_file():
        pytest.skip(f"needs {path}, the genuine weights of LPIPS")
    images, others = alike(4, 64, 60)
    if kind == "faces":
        images, others = ToyFaces(8, 64).batch(range(8))[0][:4], ToyFaces(8, 64).batch(range(8))[0][4:]
    lpips = Perceptual(path)
    assert lpips.name == f"lpips_{backbone}"
    state = torch.load(path, weights_only=True)
    np.testing.assert_allclose(lpips.distance(images, others), by_formula(state, backbone, images, others), rtol=2e-6)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_the_published_linear_layers_are_those_of_torchmetrics(shared: Path, backbone: str, tmp_path: Path) -> None:
    """So a backbone alone, such as torchvision's checkpoint, gives the published metric."""
    pytest.importorskip("torchvision", reason="needs torchvision (pip install '.[metrics]')", exc_type=ImportError)
    path = shared / "weights" / f"lpips_{backbone}.pt"
    if not path.is_file():
        pytest.skip(f"needs {path}, the genuine weights of LPIPS")
    state = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in state.items() if key.startswith("features")}, tmp_path / "backbone.pt")
    images, others = alike(2, 64, 60)
    bare = Perceptual(tmp_path / "backbone.pt").distance(images, others)
    np.testing.assert_allclose(bare, Perceptual(path).distance(images, others), rtol=1e-6)
