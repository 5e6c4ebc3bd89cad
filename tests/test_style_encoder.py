"""The class-adaptive style encoder."""

import pytest
import tiny
import torch
from torch import Tensor

from scadm.config import StyleEncoderConfig
from scadm.faces import NUM_CLASSES as K
from scadm.models.scadm import to_one_hot
from scadm.models.style_encoder import POOL_EPSILON, ColourStatistics, RegionPool, StyleEncoder

SIDE = 16
CONFIG = StyleEncoderConfig(features=2, downsamplings=3, scales=2, style_channels=4, skip="aligned", colour_scale=False)


def encoder(skip: str = "aligned") -> StyleEncoder:
    built = StyleEncoder(CONFIG.model_copy(update={"skip": skip}))
    tiny.lively(built)
    return built


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def mask() -> Tensor:
    """Classes 0 to 15 in squares of 4 pixels, so that 16, 17 and 18 are absent."""
    squares = torch.arange(16).reshape(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return to_one_hot(squares.expand(2, -1, -1))


@pytest.mark.parametrize("skip", ["aligned", "published"])
@pytest.mark.parametrize(("downsamplings", "scales"), [(1, 1), (3, 2), (3, 3)])
def test_shapes(skip: str, downsamplings: int, scales: int, image: Tensor, mask: Tensor) -> None:
    config = StyleEncoderConfig(
        features=1,
        downsamplings=downsamplings,
        scales=scales,
        style_channels=5,
        skip=skip,  # type: ignore[arg-type]
        colour_scale=False,
    )
    built = StyleEncoder(config)
    assert built.code_channels == 5 * scales
    style = built(image, mask)
    assert style.shape == (2, K, 5 * scales)
    assert style.abs().max() < 1


def others_changed(skip: str, image: Tensor, mask: Tensor) -> Tensor:
    """How much each class's code (K,) changes when the weights of class 3 change."""
    built = encoder(skip)
    with torch.no_grad():
        before = built(image, mask)
        for module in built.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.GroupNorm) and module.weight.shape[0] % K == 0:
                width = module.weight.shape[0] // K
                module.weight[3 * width : 4 * width] *= -1.7
        return (built(image, mask) - before).abs().amax(dim=(0, 2))


def test_a_code_depends_on_the_features_of_its_own_class_alone(image: Tensor, mask: Tensor) -> None:
    changed = others_changed("aligned", image, mask)
    assert changed[3] > 1e-3
    changed[3] = 0
    assert changed.max() == 0


def test_the_published_skip_mixes_classes(image: Tensor, mask: Tensor) -> None:
    changed = others_changed("published", image, mask)
    assert (changed > 1e-6).sum() > 1


def test_a_code_depends_on_its_own_region_of_the_mask_alone(image: Tensor, mask: Tensor) -> None:
    """The mask acts by pooling only: pixels that pass from class 5 to class 6 change these two codes and no others."""
    other = mask.clone()
    other[:, 6, :8] += other[:, 5, :8]
    other[:, 5, :8] = 0
    with torch.no_grad():
        changed = (encoder()(image, other) - encoder()(image, mask)).abs().amax(dim=(0, 2))
    assert changed.nonzero().flatten().tolist() == [5, 6]


def test_the_code_of_an_absent_class_comes_from_biases_alone(image: Tensor, mask: Tensor) -> None:
    built = encoder()
    with torch.no_grad():
        style = built(image, mask)
    torch.testing.assert_close(style[0, 16:], style[1, 16:], rtol=0, atol=0)
    biases = [torch.tanh(pool.project.bias).reshape(K, -1) for pool in built.pools]  # type: ignore[union-attr]
    torch.testing.assert_close(style[0, 16:], torch.cat(biases, dim=1)[16:])
    # Weights at random leave a class or two without a positive feature.
    assert ((style[0, :16] - style[1, :16]).abs().amax(dim=1) > 0).sum() > 12


def test_faces_do_not_depend_on_their_batch(image: Tensor, mask: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(encoder()(image[1:], mask[1:]), encoder()(image, mask)[1:])


def test_pooling_is_the_mean_over_a_class_s_pixels(mask: Tensor) -> None:
    pool = RegionPool(2, 2)
    with torch.no_grad():
        pool.project.weight.copy_(torch.eye(2).repeat(K, 1)[..., None])
        pool.project.bias.zero_()
        x = torch.rand(2, 2 * K, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        found = torch.atanh(pool(x, mask))
    region = x[0, 2 * 7 : 2 * 7 + 2, 4:8, 12:16]  # class 7
    torch.testing.assert_close(found[0, 7], region.sum(dim=(1, 2)) / (16 + POOL_EPSILON))
    assert found[:, 16:].abs().max() == 0


def test_the_colour_scale_reads_mean_and_deviation_of_each_class(image: Tensor, mask: Tensor) -> None:
    found = ColourStatistics.statistics(image, mask)
    assert found.shape == (2, K, 6)
    for k in range(16):
        pixels = image[:, :, mask[0, k] > 0]
        torch.testing.assert_close(found[:, k, :3], pixels.mean(dim=2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[:, k, 3:], pixels.std(dim=2, correction=0), rtol=1e-3, atol=1e-3)
    assert found[:, 16:].abs().max() == 0, "absent classes"
    shifted = ColourStatistics.statistics(0.001 * image + 0.9, mask)
    torch.testing.assert_close(shifted[:, :16, 3:], 0.001 * found[:, :16, 3:], rtol=0.1, atol=2e-4)


def test_the_colour_scale_is_one_more_scale_of_each_class_alone(image: Tensor, mask: Tensor) -> None:
    plain = encoder()
    built = StyleEncoder(CONFIG.model_copy(update={"colour_scale": True}))
    tiny.lively(built)
    built.load_state_dict(plain.state_dict(), strict=False)
    assert built.code_channels == plain.code_channels + CONFIG.style_channels
    codes = built(image, mask)
    assert codes.shape == (2, K, built.code_channels)
    assert torch.equal(codes[:, :, : plain.code_channels], plain(image, mask))
    # Another colour of class 3's pixels changes the colour code of class 3, and of no other class.
    recoloured = torch.where(mask[:, 3:4] > 0, 0.5 - image, image)
    colour = codes[:, :, plain.code_channels :]
    changed = (built(recoloured, mask)[:, :, plain.code_channels :] - colour).abs().amax(dim=(0, 2)) > 1e-4
    assert changed.tolist() == [k == 3 for k in range(K)]


def test_a_pixel_may_belong_to_several_classes(image: Tensor, mask: Tensor) -> None:
    """Multi-hot: each class pools over its own pixels, whoever else has them too."""
    built = encoder()
    both = mask.clone()
    both[:, 5] = torch.maximum(mask[:, 5], mask[:, 3])
    codes, shared = built(image, mask), built(image, both)
    changed = (shared - codes).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.tolist() == [k == 5 for k in range(K)]
