"""Published state dicts of many architectures as our model; what is not one is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import tiny  # noqa: F401  (one thread)
import torch
from torch import Tensor

from benchmarks.direct import Direct
from scadm.config import ModelConfig, StyleEncoderConfig, UNetConfig
from scadm.first_stage import VQF4
from scadm.interop import AVERAGE, FIRST_STAGE, STYLE, UNET, first_stage_from_published, from_published
from scadm.models.attention import MaskAttention
from scadm.models.scadm import to_one_hot

State = dict[str, Tensor]
SIDE = 64


def config_of(style: dict[str, Any], unet: dict[str, Any], form: MaskAttention = "hard") -> ModelConfig:
    return ModelConfig(
        method="sca-dm",
        style_encoder=StyleEncoderConfig(skip="published", colour_scale=False, **style),
        unet=UNetConfig(
            head_channels=32, groups=32, mask_attention=form, mask_resize="nearest", dropout=0.0, **unet
        ),  # fixed in the published code
    )


def style(features: int, downsamplings: int, scales: int, style_channels: int) -> dict[str, int]:
    return {
        "features": features,
        "downsamplings": downsamplings,
        "scales": scales,
        "style_channels": style_channels,
    }


def unet(
    channels: int, multipliers: tuple[int, ...], res_blocks: int, attention_at: tuple[int, ...], spade: int
) -> dict[str, Any]:
    return {
        "channels": channels,
        "multipliers": multipliers,
        "res_blocks": res_blocks,
        "attention_at": attention_at,
        "spade_channels": spade,
    }


SMALL = style(1, 3, 2, 8), unet(32, (1, 2), 1, (2,), 8)
ARCHITECTURES = {
    "one level, attention in the middle only": (style(2, 2, 1, 8), unet(32, (1,), 1, (), 16), 3),
    "two levels, the second narrower": (style(1, 3, 3, 4), unet(32, (2, 1), 2, (1, 2), 8), 4),
    "three levels": (style(1, 4, 2, 16), unet(64, (1, 2, 3), 2, (4,), 32), 3),
    "four levels": (style(3, 5, 4, 8), unet(32, (1, 2, 3, 4), 1, (2, 8), 16), 3),
    "four levels of two blocks": (style(1, 6, 5, 12), unet(32, (1, 1, 2, 2), 2, (2, 4, 8), 8), 5),
}


def state_of(config: ModelConfig, latent_channels: int = 3, seed: int = 0) -> State:
    """A published state dict of this architecture, weights at random."""
    names = {"unet.": UNET, "style_encoder.": STYLE}
    shapes = {}
    for key, tensor in Direct(config, latent_channels).state_dict().items():
        part = next(name for name in names if key.startswith(name))
        shapes[names[part] + key.removeprefix(part)] = list(tensor.shape)
    return published.weights(shapes, seed)


def direct_of(state: State, config: ModelConfig, latent_channels: int = 3) -> Direct:
    net = Direct(config, latent_channels)
    net.load_state_dict({k.replace(UNET, "unet.").replace(STYLE, "style_encoder."): t for k, t in state.items()})
    return net.eval()


def averaged(state: State) -> State:
    """The U-Net's keys as those of its moving average."""
    return {
        AVERAGE + key.removeprefix("model.").replace(".", ""): tensor
        for key, tensor in state.items()
        if key.startswith(UNET)
    }


def inputs(latent_channels: int = 3) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(19, (2, SIDE // 8, SIDE // 8), generator=random)
    return {
        "image": torch.rand(2, 3, SIDE, SIDE, generator=random) * 2 - 1,
        "mask": to_one_hot(blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)),
        "x_t": torch.randn(2, latent_channels, SIDE // 4, SIDE // 4, generator=random),
        "t": torch.tensor([3, 871]),
    }


def require_close(found: Tensor, expected: Tensor) -> None:
    """Largest difference within 1e-4 of the largest value."""
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.01
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-4


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def small() -> State:
    return state_of(config_of(*SMALL))


# --- what comes out -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("form", ["hard", "none"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_read_off_and_computes_the_same(name: str, form: MaskAttention) -> None:
    style, unet, latent_channels = ARCHITECTURES[name]
    config = config_of(style, unet, form)
    state = state_of(config, latent_channels)
    direct = direct_of(state, config, latent_channels)
    model = from_published(state, form)
    assert model.config == config
    assert model.latent_channels == latent_channels
    assert not model.training
    given = inputs(latent_channels)
    codes = direct.style_encoder(given["image"], given["mask"])
    require_close(model.encode_style(given["image"], given["mask"]), codes)
    for style_codes, mask in ((codes, given["mask"]), (torch.zeros_like(codes), torch.zeros_like(given["mask"]))):
        expected = direct.unet(given["x_t"], given["t"], style_codes, mask)
        require_close(model.denoise(given["x_t"], given["t"], model.condition(style_codes, mask)), expected)


def test_every_weight_is_the_published_one(small: State) -> None:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # what is left as it is initialised would differ
        models.append(from_published(small).state_dict())
    assert same(*models)
    assert sum(t.numel() for t in models[0].values()) == sum(t.numel() for t in small.values())
    other = from_published(state_of(config_of(*SMALL), seed=1)).state_dict()
    assert not [name for name in other if torch.equal(other[name], models[0][name])]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_float32_whatever_the_file_holds(small: State, dtype: torch.dtype) -> None:
    found = from_published({key: tensor.to(dtype) for key, tensor in small.items()}).state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    expected = from_published({key: tensor.to(dtype).float() for key, tensor in small.items()}).state_dict()
    assert same(found, expected)


def test_the_moving_average_comes_before_the_weights(small: State) -> None:
    other = state_of(config_of(*SMALL), seed=1)
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int)}
    expected = from_published({k: (other if k.startswith(UNET) else small)[k] for k in small}).state_dict()
    assert same(from_published(small | averaged(other) | counters).state_dict(), expected)
    alone = {key: tensor for key, tensor in small.items() if key.startswith(STYLE)} | averaged(other)
    assert same(from_published(alone).state_dict(), expected)
    assert same(from_published(small | counters).state_dict(), from_published(small).state_dict()), "counters alone"


def test_what_else_lightning_and_the_authors_keep_does_not_disturb(small: State, reference: Path) -> None:
    vq = {FIRST_STAGE + key: tensor for key, tensor in published.small_vq_state(reference).items()}
    schedule = {name: torch.rand(1000) for name in ("betas", "alphas_cumprod", "posterior_variance", "logvar")}
    unused = {UNET + "label_emb.weight": torch.rand(19, 4), AVERAGE + "diffusion_modellabel_embweight": torch.rand(1)}
    found = from_published(small | averaged(small) | schedule | vq | unused)
    assert same(found.state_dict(), from_published(small).state_dict())


def test_the_published_keys_are_those_of_the_published_configuration(reference: Path) -> None:
    """487 million weights: their shapes alone."""
    keys = json.loads((reference / "keys_full.json").read_text())
    with torch.device("meta"):
        state = {f"{part}.{key}": torch.empty(shape) for part, shapes in keys.items() for key, shape in shapes.items()}
        model = from_published(state)
    assert model.config == config_of(style(4, 6, 5, 256), unet(224, (1, 2, 3, 4), 2, (2, 4, 8), 128))
    expected = sum(tensor.numel() for key, tensor in state.items() if "label_emb" not in key)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == expected > 500_000_000


# --- what is refused ------------------------------------------------------------------------------------


def without(*endings: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if not key.endswith(endings)}


def reshaped(key: str, *shape: int) -> Callable[[State], State]:
    def change(state: State) -> State:
        assert key in state
        return state | {key: torch.zeros(shape)}

    return change


SHARED = "middle_block.0.in_norm.mlp_shared.0.weight"
REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "a missing bias": (
        without("time_embed.2.bias"),
        r"published U-Net misses time_embed\.2\.bias, expected it beside",
    ),
    "a missing weight of a block": (
        without("input_blocks.1.0.in_layers.2.weight"),
        r"published U-Net misses input_blocks\.1\.0\.in_layers\.2\.weight",
    ),
    "a missing stem": (without("input_blocks.0.0.weight"), r"misses input_blocks\.0\.0\.weight"),
    "a missing style layer": (
        without("Encoder.enc_layer_1.1.bias"),
        r"published style encoder misses Encoder\.enc_layer_1\.1\.bias",
    ),
    "an extra key": (
        lambda state: state | {UNET + "middle_block.1.extra.weight": torch.zeros(1)},
        r"U-Net has 1 keys too many: \['middle_block\.1\.extra\.weight'\], expected \d+ of the architecture",
    ),
    "an extra style layer": (
        lambda state: state | {STYLE + "Encoder.other.weight": torch.zeros(1)},
        r"style encoder has 1 keys too many: \['Encoder\.other\.weight'\]",
    ),
    "a wrong shape": (
        reshaped(UNET + "time_embed.0.weight", 128, 16),
        r"time_embed\.0\.weight has the shape \(128, 16\), expected \(128, 32\)",
    ),
    "a wrong shape of one of two that are stacked": (
        reshaped(UNET + "middle_block.0.in_norm.mlp_beta.weight", 64, 4, 3, 3),
        r"middle_block\.0\.in_norm\.mlp_beta\.weight has the shape \(64, 4, 3, 3\), expected \(64, 8, 3, 3\)",
    ),
    "two that are stacked, equal only in sum": (
        lambda state: (
            reshaped(UNET + "middle_block.0.in_norm.mlp_beta.bias", 63)(state)
            | {UNET + "middle_block.0.in_norm.mlp_gamma.bias": torch.zeros(65)}
        ),
        r"mlp_gamma\.bias has the shape \(65,\), expected \(64,\)",
    ),
    "a linear layer where a convolution was": (
        reshaped(UNET + "input_blocks.0.0.weight", 32, 3),
        r"input_blocks\.0\.0\.weight has the shape \(32, 3\), expected 4 dimensions",
    ),
    "a scalar": (reshaped(STYLE + "out.out_0.0.weight"), r"out\.out_0\.0\.weight has the shape \(\), expected 3 dim"),
    "a linear layer as a 3x3 convolution": (
        reshaped(UNET + "time_embed.2.weight", 128, 128, 3, 3),
        r"time_embed\.2\.weight has the shape \(128, 128, 3, 3\), expected \(128, 128\)",
    ),
    "another number of classes": (
        reshaped(UNET + SHARED, 8, 18, 3, 3),
        r"U-Net is for 18 classes, expected the 19 of CelebAMask-HQ",
    ),
    "other classes of the style encoder": (
        reshaped(STYLE + "Encoder.first_layer.0.weight", 18, 3, 3, 3),
        r"style encoder has 18 first features and 152 values .*expected multiples of the 19 classes",
    ),
    "no style encoder": (
        lambda state: {key: tensor for key, tensor in state.items() if key.startswith(UNET)},
        r"no cond_stage_model\.\*, expected the published style encoder\. It has \d+ keys .*\['model'\]",
    ),
    "no U-Net": (
        lambda state: (
            {key: tensor for key, tensor in state.items() if key.startswith(STYLE)}
            | {"model_ema.decay": torch.tensor(0.9)}
        ),
        r"no model\.diffusion_model\.\*, expected the published U-Net\. .*\['cond_stage_model', 'model_ema'\]",
    ),
    "another state dict": (lambda _: {"fc.weight": torch.zeros(2, 2)}, r"\['fc'\]"),
    "a level whose width is no multiple": (
        reshaped(UNET + "input_blocks.1.0.out_layers.3.weight", 48, 48, 3, 3),
        r"ResBlocks of \[\[48\], \[64\]\] channels, level by level, expected equally many a level.*its 32 channels",
    ),
    "levels of unequally many blocks": (
        lambda state: state | {UNET + "input_blocks.4.0.out_layers.3.weight": torch.zeros(64, 64, 3, 3)},
        r"ResBlocks of \[\[32\], \[64, 64\]\] channels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_network_is_refused(small: State, name: str) -> None:
    change, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        from_published(change(dict(small)))


# --- the first stage ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", FIRST_STAGE])
def test_a_first_stage_saved_in_diffusers_form_computes_the_golden_arrays(
    reference: Path, tmp_path: Path, prefix: str
) -> None:
    state = {prefix + key: tensor for key, tensor in published.small_vq_state(reference).items()}
    if prefix:
        state |= {"model.diffusion_model.label_emb.weight": torch.zeros(1)}
        state |= {prefix + "loss.discriminator.main.0.weight": torch.zeros(1)}
    first_stage_from_published(state).model.save_pretrained(tmp_path / "vq")
    opened = VQF4.open(tmp_path / "vq").eval()
    arrays = {name: torch.from_numpy(a) for name, a in np.load(reference / "golden_vq_small.npz").items()}
    latent = opened.encode(arrays["image"])
    require_close(latent, arrays["latent"])
    assert torch.equal(opened.ids(latent).flatten(), arrays["ids"].flatten().long())
    require_close(opened.decode(latent), arrays["reconstruction"])


VQ_REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "a missing key": (
        without("decoder.mid.block_2.norm1.bias"),
        r"first stage misses decoder\.mid\.block_2\.norm1\.bias",
    ),
    "the deepest level": (
        lambda s: {k: t for k, t in s.items() if "encoder.down.2" not in k},
        r"downsamples by 2, expected 4|too many|expected \(",
    ),
    "nothing of the encoder": (
        lambda s: {k: t for k, t in s.items() if not k.startswith("encoder.down")},
        r"misses encoder\.down\.0\.block\.0\.conv1\.weight",
    ),
    "an extra key": (
        lambda s: s | {"encoder.down.0.attn.0.q.weight": torch.zeros(1)},
        r"first stage has 1 keys too many: \['encoder\.down\.0\.attn\.0\.q\.weight'\]",
    ),
    "a wrong shape": (
        reshaped("quant_conv.weight", 3, 4, 1, 1),
        r"quant_conv\.weight has the shape \(3, 4, 1, 1\), expected \(3, 3, 1, 1\)",
    ),
    "a codebook of one dimension": (
        reshaped("quantize.embedding.weight", 64),
        r"quantize\.embedding\.weight has the shape \(64,\), expected 2 dimensions",
    ),
}


@pytest.mark.parametrize("name", VQ_REFUSED)
def test_what_is_no_such_first_stage_is_refused(reference: Path, name: str) -> None:
    change, message = VQ_REFUSED[name]
    with pytest.raises(ValueError, match=message):
        first_stage_from_published(change(published.small_vq_state(reference)))
