"""The published code's small test network as ours: its weights by a rule, its keys by a mapping."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scadm.config import ModelConfig, StyleEncoderConfig, UNetConfig
from scadm.models.attention import MaskAttention
from scadm.models.scadm import SCADM
from scadm.models.style_encoder import StyleEncoder
from scadm.models.unet import Block, SpadeResBlock, UNet

State = dict[str, Tensor]


def small_config(form: MaskAttention) -> ModelConfig:
    return ModelConfig(
        style_encoder=StyleEncoderConfig(features=1, downsamplings=6, scales=5, style_channels=256, skip="published"),
        unet=UNetConfig(
            channels=32,
            multipliers=(1, 2),
            res_blocks=1,
            attention_at=(1, 2),
            head_channels=32,
            groups=32,
            spade_channels=128,
            mask_attention=form,
            dropout=0.0,
        ),
    )


def weights(keys: dict[str, list[int]], seed: int = 0) -> State:
    """Each tensor drawn by its key: a rule, so that no file of weights is needed."""
    state = {}
    for key, shape in keys.items():
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed))
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(0.1) if values.ndim < 2 else np.float32(np.prod(shape[1:]) ** -0.5)
        if values.ndim == 1 and key.endswith("weight"):
            values += 1
        state[key] = torch.from_numpy(values)
    return state


class Mapping:
    """Collects our names for their tensors."""

    def __init__(self, theirs: State) -> None:
        self.theirs, self.ours = theirs, State()
        self.used: set[str] = set()

    def take(self, ours: str, *theirs: str) -> None:
        """Weight and bias, where there is one; several of theirs are stacked."""
        for name in ("weight", "bias"):
            keys = [f"{key}.{name}" for key in theirs]
            if keys[0] in self.theirs:
                self.ours[f"{ours}.{name}"] = torch.cat([self.theirs[key] for key in keys])
                self.used |= set(keys)


def _res_block(to: Mapping, ours: str, theirs: str, spade: bool) -> None:
    to.take(f"{ours}.time", f"{theirs}.emb_layers.1")
    to.take(f"{ours}.skip", f"{theirs}.skip_connection")
    if not spade:
        for name, place in (("norm_in", "in_layers.0"), ("conv_in", "in_layers.2")):
            to.take(f"{ours}.{name}", f"{theirs}.{place}")
        for name, place in (("norm_out", "out_layers.0"), ("conv_out", "out_layers.3")):
            to.take(f"{ours}.{name}", f"{theirs}.{place}")
        return
    to.take(f"{ours}.conv_in", f"{theirs}.in_layers.1")
    to.take(f"{ours}.conv_out", f"{theirs}.out_layers.2")
    for name, place in (("norm_in", "in_norm"), ("norm_out", "out_norm")):
        to.take(f"{ours}.{name}.shared", f"{theirs}.{place}.mlp_shared.0")
        to.take(f"{ours}.{name}.gamma_beta", f"{theirs}.{place}.mlp_gamma", f"{theirs}.{place}.mlp_beta")


def _transformer(to: Mapping, ours: str, theirs: str) -> None:
    block = f"{theirs}.transformer_blocks.0"
    for name in ("norm", "proj_in", "proj_out"):
        to.take(f"{ours}.{name}", f"{theirs}.{name}")
    to.take(f"{ours}.self_norm", f"{block}.norm1")
    to.take(f"{ours}.self_attention.to_qkv", *(f"{block}.attn1.to_{x}" for x in "qkv"))
    to.take(f"{ours}.self_attention.to_out", f"{block}.attn1.to_out.0")
    to.take(f"{ours}.cross_attention.norm", f"{block}.norm2")
    for x in "qkv":
        to.take(f"{ours}.cross_attention.to_{x}", f"{block}.attn2.to_{x}")
    to.take(f"{ours}.cross_attention.to_out", f"{block}.attn2.to_out.0")
    to.take(f"{ours}.feed_norm", f"{block}.norm3")
    to.take(f"{ours}.feed_forward.project", f"{block}.ff.net.0.proj")
    to.take(f"{ours}.feed_forward.to_out", f"{block}.ff.net.2")


def _blocks(to: Mapping, ours: str, blocks: nn.ModuleList, theirs: str, first: int) -> None:
    for i, block in enumerate(blocks):
        name, place = f"{ours}.{i}", f"{theirs}.{i + first}"
        if not isinstance(block, Block):
            to.take(name, f"{place}.0.op")
            continue
        _res_block(to, f"{name}.res", f"{place}.0", isinstance(block.res, SpadeResBlock))
        if block.attention is not None:
            _transformer(to, f"{name}.attention", f"{place}.1")
        if block.resample is not None:
            to.take(f"{name}.resample.conv", f"{place}.{1 if block.attention is None else 2}.conv")


def map_unet(unet: UNet, theirs: State) -> Mapping:
    to = Mapping(theirs)
    for i in (0, 2):
        to.take(f"time.{i}", f"time_embed.{i}")
    to.take("stem", "input_blocks.0.0")
    _blocks(to, "encoder", unet.encoder, "input_blocks", first=1)
    # Their middle is one sequence of three: block, transformer, block.
    _res_block(to, "middle.0.res", "middle_block.0", spade=True)
    _transformer(to, "middle.0.attention", "middle_block.1")
    _res_block(to, "middle.1.res", "middle_block.2", spade=True)
    _blocks(to, "decoder", unet.decoder, "output_blocks", first=0)
    to.take("norm_out", "out.0")
    to.take("conv_out", "out.2")
    return to


def map_style_encoder(encoder: StyleEncoder, theirs: State) -> Mapping:
    to = Mapping(theirs)
    to.take("first", "Encoder.first_layer.0")
    to.take("first_norm", "Encoder.first_layer.1")
    for i in range(len(encoder.encoder)):
        to.take(f"encoder.{i}.conv", f"Encoder.enc_layer_{i}.0")
        to.take(f"encoder.{i}.norm", f"Encoder.enc_layer_{i}.1")
    for i in range(len(encoder.decoder)):
        to.take(f"decoder.{i}.conv", f"Decoder.dec_layer_{i}.1")  # after their upsampling
        to.take(f"decoder.{i}.norm", f"Decoder.dec_layer_{i}.2")
        to.take(f"pools.{i}.project", f"out.out_{i}.0")
    return to


def small_model(reference: Path, form: MaskAttention) -> SCADM:
    """The published small network with the weights of the golden arrays."""
    keys = json.loads((reference / "keys_small.json").read_text())
    model = SCADM(small_config(form), 3)
    unet = map_unet(model.unet, weights(keys["unet"]))
    style = map_style_encoder(model.style_encoder, weights(keys["style_encoder"]))
    unused = {key for to in (unet, style) for key in to.theirs.keys() - to.used}
    # label_emb is in the published checkpoint and takes part in nothing.
    assert all(key.startswith("label_emb") for key in unused), sorted(unused)
    model.unet.load_state_dict(unet.ours)
    model.style_encoder.load_state_dict(style.ours)
    return model.eval()
