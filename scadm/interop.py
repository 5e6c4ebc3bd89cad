"""The published checkpoint as ours: its names of weights, its architecture from their shapes, its variants.

A Lightning state dict holds the U-Net (`model.diffusion_model.*`), where present its moving average (`model_ema.*`,
which the authors sample with), the style encoder (`cond_stage_model.*`) and the first stage (`first_stage_model.*`).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from scadm.config import DiffusionConfig, ModelConfig, StyleEncoderConfig, UNetConfig
from scadm.diffusion.schedule import Schedule
from scadm.faces import NUM_CLASSES as K
from scadm.first_stage import VQF4
from scadm.models.attention import MaskAttention
from scadm.models.scadm import SCADM
from scadm.models.style_encoder import StyleEncoder
from scadm.models.unet import Block, SpadeResBlock, UNet

if TYPE_CHECKING:  # imported where it is used: it takes seconds
    from diffusers.models.autoencoders.vq_model import VQModel

UNET, AVERAGE, STYLE, FIRST_STAGE = "model.diffusion_model.", "model_ema.", "cond_stage_model.", "first_stage_model."

_COUNTERS = ("decay", "num_updates")  # of the moving average, beside its weights
HEAD_CHANNELS = GROUPS = 32
"""Channels of an attention head, groups of a GroupNorm: published facts that no weight's shape tells."""

DIFFUSION = DiffusionConfig(
    timesteps=1000,
    beta_start=0.0015,
    beta_end=0.0195,
    prediction="epsilon",
    normalise_latents=False,
    no_reference=0.5,
    guidance_null=0.0,
    min_snr_gamma=None,
)
"""What the authors trained with: half of the style images are zero, the mask is always kept."""


def from_published(state_dict: Mapping[str, Tensor], mask_attention: MaskAttention = "hard") -> SCADM:
    """The model of a published state dict: float32, in evaluation mode, with the published variants.

    The U-Net's weights are their moving average where there is one. Raises ValueError where a key is missing or left
    over, or where a shape fits no such network; both sides are named.
    """
    average = {key: tensor for key, tensor in _part(state_dict, AVERAGE).items() if key not in _COUNTERS}
    unet = _Published("U-Net", average or _part(state_dict, UNET))
    style = _Published("style encoder", _part(state_dict, STYLE))
    for part, prefix in ((unet, UNET), (style, STYLE)):
        if not part.state:
            raise ValueError(
                f"the state dict has no {prefix}*, expected the published {part.name}. It has {len(state_dict)} keys "
                f"with the beginnings {sorted({key.split('.')[0] for key in state_dict})[:9]}."
            )
    config = ModelConfig(
        method="sca-dm",
        style_encoder=_style_encoder_config(style),
        unet=_unet_config(unet, mask_attention),
    )
    model = SCADM(config, latent_channels=unet.shape("input_blocks.0.0.weight")[1])
    unet.load(model.unet, _unet_names(model.unet))
    assert isinstance(model.style_encoder, StyleEncoder)
    style.load(model.style_encoder, _style_encoder_names(model.style_encoder))
    return model.eval()


def first_stage_from_published(state_dict: Mapping[str, Tensor]) -> VQF4:
    """The published VQ first stage; its keys with or without `first_stage_model.`. Errors as in `from_published`."""
    part = _part(state_dict, FIRST_STAGE) or dict(state_dict)
    # `loss` is the discriminator of the first stage's own training.
    vq = _Published("first stage", {key: tensor for key, tensor in part.items() if not key.startswith("loss.")})
    model = _vq_model(vq)
    vq.load(model, _vq_names(model))
    return VQF4(model.eval())


def require_schedule(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the state dict has a noise schedule, and it is another than the published one."""
    if "alphas_cumprod" not in state:
        return
    found, expected = state["alphas_cumprod"].float(), Schedule(DIFFUSION).alpha_bar
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"the checkpoint's alphas_cumprod has {len(found)} steps and ends at {found[-1].item():.3g}, expected the "
            f"published schedule's {len(expected)} and {expected[-1].item():.3g}."
        )


# --- reading ------------------------------------------------------------------------------------------


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _plain(name: str) -> str:
    """A name as the moving average writes it: without dots. Still unique, as all blocks have one-digit layers."""
    return name.replace(".", "")


Names = Iterator[tuple[str, tuple[str, ...]]]
"""Pairs of our name of a layer and theirs; where theirs are several, they are stacked."""


class _Published:
    """One network of a published state dict, addressed by its dotted names."""

    def __init__(self, name: str, state: Mapping[str, Tensor]) -> None:
        self.name = name
        # The moving average is of `model`, whose one child is `diffusion_model`.
        names = {_plain(key).removeprefix("diffusion_model"): key for key in state}
        self.state = {plain: state[key] for plain, key in names.items()}
        self.names = names

    def __contains__(self, key: str) -> bool:
        return _plain(key) in self.state

    def __getitem__(self, key: str) -> Tensor:
        if key not in self:
            raise ValueError(
                f"the published {self.name} misses {key}, expected it beside {list(self.names.values())[:3]}..."
            )
        return self.state[_plain(key)]

    def shape(self, key: str, dims: int = 4) -> tuple[int, ...]:
        found = tuple(self[key].shape)
        if len(found) != dims:
            raise ValueError(f"the published {self.name}'s {key} has the shape {found}, expected {dims} dimensions.")
        return found

    def count(self, pattern: str) -> int:
        """How many of `pattern` with 0, 1, 2, ... for `{}` there are."""
        i = 0
        while pattern.format(i) in self:
            i += 1
        return i

    def load(self, module: nn.Module, names: Names) -> None:
        """Strictly; of each layer the weight and, where we have one, the bias."""
        own = module.state_dict()
        used, found = {_plain("label_emb.weight")}, {}  # label_emb is published and part of no computation
        for ours, theirs in names:
            for end in ("weight", "bias"):
                if (key := f"{ours}.{end}") in own:
                    rows = own[key].shape[0] // len(theirs)
                    parts = [self._layer(f"{name}.{end}", (rows, *own[key].shape[1:])) for name in theirs]
                    found[key] = torch.cat(parts)
                    used |= {_plain(f"{name}.{end}") for name in theirs}
        if extra := sorted(self.names[plain] for plain in self.state.keys() - used):
            raise ValueError(
                f"the published {self.name} has {len(extra)} keys too many: {extra[:5]}, expected {len(used)} of the "
                "architecture that its other weights show."
            )
        module.load_state_dict(found)

    def _layer(self, key: str, expected: tuple[int, ...]) -> Tensor:
        tensor = self[key].float()
        if len(expected) == 2 and tensor.shape[2:] == (1, 1):  # LDM writes some linear layers as 1x1 convolutions
            tensor = rearrange(tensor, "o i 1 1 -> o i")
        if tensor.shape != expected:
            raise ValueError(
                f"the published {self.name}'s {key} has the shape {tuple(tensor.shape)}, expected {expected} in the "
                "architecture that its other weights show."
            )
        return tensor


# --- U-Net --------------------------------------------------------------------------------------------


def _unet_config(unet: _Published, mask_attention: MaskAttention) -> UNetConfig:
    channels = unet.shape("input_blocks.0.0.weight")[0]
    spade_channels, classes = unet.shape("middle_block.0.in_norm.mlp_shared.0.weight")[:2]
    if classes != K:
        raise ValueError(f"the published U-Net is for {classes} classes, expected the {K} of CelebAMask-HQ.")
    widths: list[list[int]] = [[]]  # of the ResBlocks, level by level
    attended: set[int] = set()
    i = 1
    while f"input_blocks.{i}.0.op.weight" in unet or f"input_blocks.{i}.0.out_layers.3.weight" in unet:
        if f"input_blocks.{i}.0.op.weight" in unet:
            widths.append([])
        else:
            widths[-1].append(unet.shape(f"input_blocks.{i}.0.out_layers.3.weight")[0])
            if f"input_blocks.{i}.1.proj_in.weight" in unet:
                attended.add(2 ** (len(widths) - 1))
        i += 1
    if any(len(level) != len(widths[0]) or len(set(level)) != 1 or level[0] % channels for level in widths):
        raise ValueError(
            f"the published U-Net has ResBlocks of {widths} channels, level by level, expected equally many a level, "
            f"all of one multiple of its {channels} channels."
        )
    return UNetConfig(
        channels=channels,
        multipliers=tuple(level[0] // channels for level in widths),
        res_blocks=len(widths[0]),
        attention_at=tuple(sorted(attended)),
        head_channels=HEAD_CHANNELS,
        groups=GROUPS,
        spade_channels=spade_channels,
        mask_attention=mask_attention,
        mask_resize="nearest",
        dropout=0.0,
    )


def _unet_names(unet: UNet) -> Names:
    yield "time.0", ("time_embed.0",)
    yield "time.2", ("time_embed.2",)
    yield "stem", ("input_blocks.0.0",)
    yield from _block_names("encoder", unet.encoder, "input_blocks", first=1)
    # Their middle is one sequence of three: ResBlock, transformer, ResBlock.
    yield from _spade_res_block_names("middle.0.res", "middle_block.0")
    yield from _transformer_names("middle.0.attention", "middle_block.1")
    yield from _spade_res_block_names("middle.1.res", "middle_block.2")
    yield from _block_names("decoder", unet.decoder, "output_blocks", first=0)
    yield "norm_out", ("out.0",)
    yield "conv_out", ("out.2",)


def _block_names(ours: str, blocks: nn.ModuleList, theirs: str, first: int) -> Names:
    for i, block in enumerate(blocks):
        name, place = f"{ours}.{i}", f"{theirs}.{i + first}"
        if not isinstance(block, Block):
            yield name, (f"{place}.0.op",)
            continue
        spade = isinstance(block.res, SpadeResBlock)
        yield from (_spade_res_block_names if spade else _res_block_names)(f"{name}.res", f"{place}.0")
        if block.attention is not None:
            yield from _transformer_names(f"{name}.attention", f"{place}.1")
        if block.resample is not None:
            yield f"{name}.resample.conv", (f"{place}.{1 if block.attention is None else 2}.conv",)


def _res_block_names(ours: str, theirs: str) -> Names:
    yield f"{ours}.norm_in", (f"{theirs}.in_layers.0",)
    yield f"{ours}.conv_in", (f"{theirs}.in_layers.2",)
    yield f"{ours}.time", (f"{theirs}.emb_layers.1",)
    yield f"{ours}.norm_out", (f"{theirs}.out_layers.0",)
    yield f"{ours}.conv_out", (f"{theirs}.out_layers.3",)
    yield f"{ours}.skip", (f"{theirs}.skip_connection",)


def _spade_res_block_names(ours: str, theirs: str) -> Names:
    for norm, place in (("norm_in", "in_norm"), ("norm_out", "out_norm")):
        yield f"{ours}.{norm}.shared", (f"{theirs}.{place}.mlp_shared.0",)
        yield f"{ours}.{norm}.gamma_beta", (f"{theirs}.{place}.mlp_gamma", f"{theirs}.{place}.mlp_beta")
    yield f"{ours}.conv_in", (f"{theirs}.in_layers.1",)
    yield f"{ours}.time", (f"{theirs}.emb_layers.1",)
    yield f"{ours}.conv_out", (f"{theirs}.out_layers.2",)
    yield f"{ours}.skip", (f"{theirs}.skip_connection",)


def _transformer_names(ours: str, theirs: str) -> Names:
    block = f"{theirs}.transformer_blocks.0"
    for name in ("norm", "proj_in", "proj_out"):
        yield f"{ours}.{name}", (f"{theirs}.{name}",)
    yield f"{ours}.self_norm", (f"{block}.norm1",)
    yield f"{ours}.self_attention.to_qkv", (f"{block}.attn1.to_q", f"{block}.attn1.to_k", f"{block}.attn1.to_v")
    yield f"{ours}.self_attention.to_out", (f"{block}.attn1.to_out.0",)
    yield f"{ours}.cross_attention.norm", (f"{block}.norm2",)
    for name in ("to_q", "to_k", "to_v"):
        yield f"{ours}.cross_attention.{name}", (f"{block}.attn2.{name}",)
    yield f"{ours}.cross_attention.to_out", (f"{block}.attn2.to_out.0",)
    yield f"{ours}.feed_norm", (f"{block}.norm3",)
    yield f"{ours}.feed_forward.project", (f"{block}.ff.net.0.proj",)
    yield f"{ours}.feed_forward.to_out", (f"{block}.ff.net.2",)


# --- style encoder ------------------------------------------------------------------------------------


def _style_encoder_config(style: _Published) -> StyleEncoderConfig:
    outputs, codes = style.shape("Encoder.first_layer.0.weight")[0], style.shape("out.out_0.0.weight", 3)[0]
    if outputs % K or codes % K:
        raise ValueError(
            f"the published style encoder has {outputs} first features and {codes} values at its coarsest scale, "
            f"expected multiples of the {K} classes of CelebAMask-HQ."
        )
    return StyleEncoderConfig(
        features=outputs // K,
        downsamplings=style.count("Encoder.enc_layer_{}.0.weight"),
        scales=style.count("Decoder.dec_layer_{}.1.weight"),
        style_channels=codes // K,
        skip="published",
        colour_scale=False,
    )


def _style_encoder_names(encoder: StyleEncoder) -> Names:
    yield "first", ("Encoder.first_layer.0",)
    yield "first_norm", ("Encoder.first_layer.1",)
    for i in range(len(encoder.encoder)):
        yield f"encoder.{i}.conv", (f"Encoder.enc_layer_{i}.0",)
        yield f"encoder.{i}.norm", (f"Encoder.enc_layer_{i}.1",)
    for i in range(len(encoder.decoder)):
        yield f"decoder.{i}.conv", (f"Decoder.dec_layer_{i}.1",)  # their .0 is the upsampling
        yield f"decoder.{i}.norm", (f"Decoder.dec_layer_{i}.2",)
        yield f"pools.{i}.project", (f"out.out_{i}.0",)


# --- first stage --------------------------------------------------------------------------------------


def _vq_model(vq: _Published) -> "VQModel":
    """diffusers' VQModel in the architecture that the shapes of LDM's weights show."""
    from diffusers.models.autoencoders.vq_model import VQModel

    vq.shape("encoder.down.0.block.0.conv1.weight")
    levels, res_blocks = (
        vq.count("encoder.down.{}.block.0.conv1.weight"),
        vq.count("encoder.down.0.block.{}.conv1.weight"),
    )
    codes, code_channels = vq.shape("quantize.embedding.weight", 2)
    return VQModel(
        in_channels=vq.shape("encoder.conv_in.weight")[1],
        out_channels=vq.shape("decoder.conv_out.weight")[0],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(vq.shape(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)),
        layers_per_block=res_blocks,
        latent_channels=vq.shape("encoder.conv_out.weight")[0],
        num_vq_embeddings=codes,
        norm_num_groups=GROUPS,
        vq_embed_dim=code_channels,
        scaling_factor=1.0,  # the published latents are unscaled
        mid_block_add_attention="encoder.mid.attn_1.q.weight" in vq,
    )


def _vq_names(model: "VQModel") -> Names:
    """diffusers' names and LDM's. LDM counts the decoder's levels from the finest, diffusers from the coarsest."""
    levels = len(model.config["block_out_channels"])
    for ours, theirs in (("quantize.embedding",) * 2, ("quant_conv",) * 2, ("post_quant_conv",) * 2):
        yield ours, (theirs,)
    for side, blocks, down in (("encoder", "down_blocks", "down"), ("decoder", "up_blocks", "up")):
        for ours, theirs in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
            yield f"{side}.{ours}", (f"{side}.{theirs}",)
        for i, theirs in ((0, "block_1"), (1, "block_2")):
            yield from _vq_res_block_names(f"{side}.mid_block.resnets.{i}", f"{side}.mid.{theirs}")
        attention, published = f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1"
        for ours, theirs in (
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            yield f"{attention}.{ours}", (f"{published}.{theirs}",)
        for i in range(levels):
            level = i if side == "encoder" else levels - 1 - i
            for j in range(model.config["layers_per_block"] + (side == "decoder")):
                yield from _vq_res_block_names(f"{side}.{blocks}.{i}.resnets.{j}", f"{side}.{down}.{level}.block.{j}")
            for resample in ("downsample", "upsample"):
                yield f"{side}.{blocks}.{i}.{resample}rs.0.conv", (f"{side}.{down}.{level}.{resample}.conv",)


def _vq_res_block_names(ours: str, theirs: str) -> Names:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{ours}.{name}", (f"{theirs}.{name}",)
    yield f"{ours}.conv_shortcut", (f"{theirs}.nin_shortcut",)
