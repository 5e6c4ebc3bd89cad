"""The high-level API: reconstruct, swap, interpolate, mix, random, dress."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from torch import nn
from toy_faces import ToyFaces

from scadm import faces
from scadm.files.checkpoint import read_checkpoint, write_checkpoint
from scadm.files.store import Store
from scadm.first_stage import save_small
from scadm.models.autoencoder import VQAutoencoder
from scadm.models.scadm import to_one_hot
from scadm.synthesis import Synthesiser, load_synthesiser, part_ids

Pixels = NDArray[np.uint8]
SIDE = tiny.SIDE
FACES, OTHERS = ToyFaces(3, SIDE), ToyFaces(3, SIDE, seed=1)
IMAGES, LABELS = FACES.images, FACES.labels
REFERENCES, REFERENCE_LABELS = OTHERS.images, OTHERS.labels
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def synthesiser(tmp_path_factory: pytest.TempPathFactory) -> Synthesiser:
    return tiny.synthesiser(tmp_path_factory.mktemp("synthesis"))


Call = Callable[[Synthesiser, slice], Pixels]
CALLS: dict[str, Call] = {
    "reconstruct": lambda s, b: s.reconstruct(IMAGES[b], LABELS[b], SEEDS[b]),
    "swap": lambda s, b: s.swap(IMAGES[b], LABELS[b], REFERENCES[b], REFERENCE_LABELS[b], ["hair", "mouth"], SEEDS[b]),
    "interpolate": lambda s, b: s.interpolate(
        IMAGES[b], LABELS[b], REFERENCES[b], REFERENCE_LABELS[b], ["skin"], 0.3, SEEDS[b]
    ),
    "mix": lambda s, b: s.mix(LABELS[b], {"hair": (REFERENCES[b], REFERENCE_LABELS[b])}, SEEDS[b]),
    "random": lambda s, b: s.random(LABELS[b], SEEDS[b]),
    "dress": lambda s, b: s.dress(LABELS[b], REFERENCES[b], REFERENCE_LABELS[b], SEEDS[b]),
    "round_trip": lambda s, b: s.round_trip(IMAGES[b]),
}


@pytest.mark.parametrize("name", CALLS)
def test_images_come_in_the_form_that_they_went_in(synthesiser: Synthesiser, name: str) -> None:
    found = CALLS[name](synthesiser, slice(None))
    assert found.shape == (3, SIDE, SIDE, 3)
    assert found.dtype == np.uint8
    assert found.std() > 1
    np.testing.assert_array_equal(found, CALLS[name](synthesiser, slice(None)))


def test_arrays_that_are_read_only_do_without_a_warning(synthesiser: Synthesiser) -> None:
    images, labels = IMAGES.copy(), LABELS.copy()
    images.flags.writeable = labels.flags.writeable = False  # as Pillow gives them
    expected = synthesiser.reconstruct(IMAGES, LABELS, SEEDS)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(synthesiser.reconstruct(images, labels, SEEDS), expected)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("eta", [0.0, 0.8])
@pytest.mark.parametrize("name", CALLS)
def test_an_image_does_not_depend_on_its_batch(synthesiser: Synthesiser, name: str, eta: float) -> None:
    noisy = replace(synthesiser, sampling=tiny.SAMPLING.model_copy(update={"eta": eta}))
    together = CALLS[name](noisy, slice(None)).astype(int)
    for row in range(3):
        alone = CALLS[name](noisy, slice(row, row + 1)).astype(int)
        # Sums of another batch size may round differently, by one grey level; another code of the VQ would show.
        assert np.abs(alone[0] - together[row]).max() <= 1


def codes(synthesiser: Synthesiser, call: Call, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The style codes that a call synthesises from."""
    seen: list[torch.Tensor] = []

    def spy(self: Synthesiser, style: torch.Tensor, labels: Pixels, seeds: list[int]) -> Pixels:
        seen.append(style)
        return np.zeros((len(labels), SIDE, SIDE, 3), np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(Synthesiser, "synthesise", spy)
        call(synthesiser, slice(None))
    (style,) = seen
    return style


def test_a_swap_changes_the_codes_of_its_parts_alone(synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch) -> None:
    own = synthesiser.encode_style(IMAGES, LABELS)
    reference = synthesiser.encode_style(REFERENCES, REFERENCE_LABELS)
    style = codes(synthesiser, CALLS["swap"], monkeypatch)
    swapped = part_ids(["hair", "mouth"])
    kept = [k for k in range(19) if k not in swapped]
    assert torch.equal(style[:, swapped], reference[:, swapped])
    assert torch.equal(style[:, kept], own[:, kept])
    assert (own - reference)[:, swapped].abs().amax(dim=(0, 2)).min() > 0


def test_interpolation_lies_between_its_ends(synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(weight: float) -> torch.Tensor:
        return codes(
            synthesiser,
            lambda s, _: s.interpolate(IMAGES, LABELS, REFERENCES, REFERENCE_LABELS, ["skin"], weight, SEEDS),
            monkeypatch,
        )

    own = synthesiser.encode_style(IMAGES, LABELS)
    torch.testing.assert_close(moved(0.0), own)
    torch.testing.assert_close(moved(0.25), own + 0.25 * (moved(1.0) - own))
    np.testing.assert_array_equal(
        synthesiser.interpolate(IMAGES, LABELS, REFERENCES, REFERENCE_LABELS, ["skin"], 0.0, SEEDS),
        synthesiser.reconstruct(IMAGES, LABELS, SEEDS),
    )


def test_a_part_that_the_reference_lacks_is_as_the_mask_alone_suggests(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    bald = REFERENCE_LABELS.copy()
    hair = faces.CLASS_ID["hair"]
    bald[bald == hair] = 0
    alone = synthesiser.no_reference(LABELS)
    calls: list[Call] = [
        lambda s, _: s.swap(IMAGES, LABELS, REFERENCES, bald, ["hair"], SEEDS),
        lambda s, _: s.mix(LABELS, {"hair": (REFERENCES, bald)}, SEEDS),
        lambda s, _: s.dress(LABELS, REFERENCES, bald, SEEDS),
    ]
    for call in calls:
        assert torch.equal(codes(synthesiser, call, monkeypatch)[:, hair], alone[:, hair])
    # Only the faces that lack it: one reference of three is bald.
    some = REFERENCE_LABELS.copy()
    some[1] = bald[1]
    style = codes(synthesiser, lambda s, _: s.dress(LABELS, REFERENCES, some, SEEDS), monkeypatch)
    reference = synthesiser.encode_style(REFERENCES, some)
    assert torch.equal(style[[0, 2], hair], reference[[0, 2], hair])
    assert torch.equal(style[1, hair], alone[1, hair])


def one_hot_of(labels: Pixels) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 19).movedim(-1, 1).float()


def test_codes_of_random_faces_come_from_a_zero_image_and_the_true_mask(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = codes(synthesiser, CALLS["random"], monkeypatch)
    one_hot = one_hot_of(LABELS)
    with torch.inference_mode():
        expected = synthesiser.model.encode_style(torch.zeros(3, 3, SIDE, SIDE), one_hot)
    torch.testing.assert_close(style, expected)


def test_a_mix_takes_each_part_from_its_own_reference(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = {"hair": (REFERENCES, REFERENCE_LABELS), "skin": (IMAGES, LABELS)}
    style = codes(synthesiser, lambda s, _: s.mix(LABELS, references, SEEDS), monkeypatch)
    hair, skin, cloth = part_ids(["hair", "skin", "cloth"])
    assert torch.equal(style[:, hair], synthesiser.encode_style(REFERENCES, REFERENCE_LABELS)[:, hair])
    assert torch.equal(style[:, skin], synthesiser.encode_style(IMAGES, LABELS)[:, skin])
    assert torch.equal(style[:, cloth], synthesiser.no_reference(LABELS)[:, cloth])


def test_seeds_choose_the_face(synthesiser: Synthesiser) -> None:
    same = np.repeat(LABELS[:1], 3, axis=0)
    found = synthesiser.random(same, [1, 1, 2]).astype(int)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 5


def test_guidance_matters_and_can_be_left_out(synthesiser: Synthesiser) -> None:
    def at(scale: float) -> Pixels:
        config = tiny.SAMPLING.model_copy(update={"guidance_scale": scale})
        return replace(synthesiser, sampling=config).reconstruct(IMAGES, LABELS, SEEDS)

    assert np.abs(at(0.0).astype(int) - at(1e-7)).max() <= 1, "without it, one forward pass gives the same"
    assert np.abs(at(0.0).astype(int) - at(3.0)).max() > 5


def rows_denoised(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch, **sampling: Any
) -> tuple[Pixels, list[int]]:
    """Reconstructions, and how many rows the network was given at each step."""
    rows: list[int] = []
    denoise = synthesiser.model.denoise

    def spy(x_t: torch.Tensor, t: torch.Tensor, conditioning: Any) -> torch.Tensor:
        rows.append(len(x_t))
        return denoise(x_t, t, conditioning)

    with monkeypatch.context() as patch:
        patch.setattr(synthesiser.model, "denoise", spy)
        changed = replace(synthesiser, sampling=tiny.SAMPLING.model_copy(update=sampling))
        return changed.reconstruct(IMAGES, LABELS, SEEDS), rows


def test_outside_the_interval_the_null_is_not_computed(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiny's timesteps are 76, 51, 26 and 1 of 100."""
    everywhere, rows = rows_denoised(synthesiser, monkeypatch, guidance_scale=3.0)
    assert rows == [6, 6, 6, 6]
    nowhere, rows = rows_denoised(synthesiser, monkeypatch, guidance_scale=0.0)
    assert rows == [3, 3, 3, 3]
    between, rows = rows_denoised(synthesiser, monkeypatch, guidance_scale=3.0, guidance_interval=(0.2, 0.6))
    assert rows == [3, 6, 6, 3]
    for other in (everywhere, nowhere):
        assert np.abs(between.astype(int) - other).max() > 5
    missed, rows = rows_denoised(synthesiser, monkeypatch, guidance_scale=3.0, guidance_interval=(0.8, 1.0))
    assert rows == [3, 3, 3, 3]
    np.testing.assert_array_equal(missed, nowhere)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_an_image_does_not_depend_on_its_chunk(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    latents: list[torch.Tensor] = []
    sample = Synthesiser.latents

    def spy(self: Synthesiser, style: torch.Tensor, mask: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        latents.append(sample(self, style, mask, seeds))
        return latents[-1]

    style = synthesiser.encode_style(IMAGES, LABELS)
    expected = sample(synthesiser, style, to_one_hot(torch.from_numpy(LABELS)), SEEDS)
    with monkeypatch.context() as patch:
        patch.setattr(Synthesiser, "latents", spy)
        images = synthesiser.synthesise(style, LABELS, SEEDS, chunk=chunk)
    assert [len(part) for part in latents] == {1: [1, 1, 1], 2: [2, 1], 8: [3]}[chunk]
    torch.testing.assert_close(torch.cat(latents), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(images.astype(int) - synthesiser.synthesise(style, LABELS, SEEDS)).max() <= 1


def test_what_does_not_fit_is_refused(synthesiser: Synthesiser) -> None:
    with pytest.raises(ValueError, match=r"unknown part 'beard', expected some of background, skin"):
        synthesiser.swap(IMAGES, LABELS, REFERENCES, REFERENCE_LABELS, ["hair", "beard"], SEEDS)
    with pytest.raises(ValueError, match=r"label maps have shape \(3, 8, 8\), expected \(B, 16, 16\)"):
        synthesiser.random(LABELS[:, :8, :8], SEEDS)
    with pytest.raises(ValueError, match=r"image has shape \(3, 3, 8, 8\) and its mask \(3, 19, 16, 16\)"):
        synthesiser.reconstruct(IMAGES[:, :8, :8], LABELS, SEEDS)
    with pytest.raises(ValueError, match=r"3 styles, 3 masks and 2 seeds"):
        synthesiser.random(LABELS, [1, 2])
    odd = LABELS.copy()
    odd[0, 0, 0] = 19
    with pytest.raises(ValueError, match=r"labels hold the id 19"):
        synthesiser.random(odd, SEEDS)


def conditions_of(synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Style codes and masks that a guided reconstruction is conditioned on: the faces', then the null's."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    condition = synthesiser.model.condition

    def spy(style: torch.Tensor, mask: torch.Tensor) -> Any:
        seen.append((style, mask))
        return condition(style, mask)

    with monkeypatch.context() as patch:
        patch.setattr(synthesiser.model, "condition", spy)
        synthesiser.reconstruct(IMAGES, LABELS, SEEDS)
    (found,) = seen
    return found


def test_what_guidance_subtracts_is_what_training_showed_as_null(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    style, mask = conditions_of(synthesiser, monkeypatch)
    assert torch.equal(mask, torch.cat([one_hot_of(LABELS), torch.zeros(3, 19, SIDE, SIDE)]))
    torch.testing.assert_close(style[:3], synthesiser.encode_style(IMAGES, LABELS))
    with torch.inference_mode():
        null = synthesiser.model.encode_style(torch.zeros(3, 3, SIDE, SIDE), torch.zeros(3, 19, SIDE, SIDE))
    torch.testing.assert_close(style[3:], null)
    assert null.abs().max() > 0.01, "which is not zero"


def test_for_published_weights_it_is_zero_codes_and_a_zero_mask(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = replace(synthesiser, guidance_null="zero")
    style, mask = conditions_of(published, monkeypatch)
    assert torch.equal(mask, torch.cat([one_hot_of(LABELS), torch.zeros(3, 19, SIDE, SIDE)]))
    torch.testing.assert_close(style[:3], synthesiser.encode_style(IMAGES, LABELS))
    assert not style[3:].any()
    assert style.shape[0] == 6
    found = [s.latents(style[:3], mask[:3], SEEDS) for s in (synthesiser, published)]
    assert (found[0] - found[1]).abs().max() > 1e-3


# --- from disk ------------------------------------------------------------------------------------------


@pytest.fixture
def final(tmp_path: Path) -> tuple[str, Path]:
    """A run's final checkpoint and its autoencoder."""
    mark = tiny.write_autoencoder(tmp_path / "autoencoder")
    config = {
        "model": tiny.MODEL.model_dump(mode="json"),
        "diffusion": tiny.DIFFUSION.model_dump(mode="json"),
        "latent_channels": 3,
        "latent_mean": [0.1, 0.0, -0.1],
        "latent_std": [0.5, 0.6, 0.4],
        "resolution": SIDE,
        "autoencoder": mark,
        "guidance_null": "encoded",
        "step": 1,
    }
    write_checkpoint(Store(str(tmp_path / "final")), {"weights": dict(tiny.model().state_dict())}, config)
    return str(tmp_path / "final"), tmp_path / "autoencoder"


def test_it_loads_without_flags(final: tuple[str, Path], synthesiser: Synthesiser) -> None:
    weights, autoencoder = final
    loaded = load_synthesiser(weights, autoencoder, tiny.SAMPLING, torch.device("cpu"))
    assert loaded.scale == synthesiser.scale
    assert not loaded.model.training
    np.testing.assert_array_equal(
        loaded.reconstruct(IMAGES, LABELS, SEEDS), synthesiser.reconstruct(IMAGES, LABELS, SEEDS)
    )


@pytest.mark.parametrize("null", ["encoded", "zero"])
def test_its_guidance_null_is_the_checkpoint_s(final: tuple[str, Path], null: str) -> None:
    weights, autoencoder = final
    tensors, config = read_checkpoint(Store(weights), ["weights"])
    write_checkpoint(Store(weights), tensors, config | {"guidance_null": null})
    assert load_synthesiser(weights, autoencoder, tiny.SAMPLING, torch.device("cpu")).guidance_null == null


def test_in_bf16_layers_are_cast_and_norms_and_the_sampler_s_state_are_not(
    final: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, autoencoder = final
    half = load_synthesiser(
        weights, autoencoder, tiny.SAMPLING.model_copy(update={"precision": "bf16"}), torch.device("cpu")
    )
    for name, module in half.model.named_modules():
        layer = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
        for parameter in module.parameters(recurse=False):
            assert parameter.dtype == (torch.bfloat16 if layer else torch.float32), name
    kinds = {type(module) for module in half.model.modules()}
    assert {nn.Conv1d, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm} <= kinds
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    denoise = half.model.denoise

    def spy(x_t: torch.Tensor, t: torch.Tensor, conditioning: Any) -> torch.Tensor:
        found = denoise(x_t, t, conditioning)
        seen.append((x_t.dtype, found.dtype))
        return found

    monkeypatch.setattr(half.model, "denoise", spy)
    style = half.encode_style(IMAGES, LABELS)
    assert style.dtype == torch.float32
    latents = half.latents(style, one_hot_of(LABELS), SEEDS)
    assert latents.dtype == torch.float32
    assert seen == [(torch.float32, torch.bfloat16)] * 4, "the network computes in bf16, the sampler in float32"


def test_images_in_bf16_are_close_to_those_in_float32(final: tuple[str, Path]) -> None:
    def made(precision: str) -> tuple[torch.Tensor, Pixels]:
        sampling = tiny.SAMPLING.model_copy(update={"precision": precision})
        loaded = load_synthesiser(*final, sampling, torch.device("cpu"))
        latents = loaded.latents(loaded.encode_style(IMAGES, LABELS), one_hot_of(LABELS), SEEDS)
        return latents, loaded.reconstruct(IMAGES, LABELS, SEEDS).astype(int)

    (latents, images), (half_latents, half_images) = made("fp32"), made("bf16")
    difference = ((half_latents - latents).abs().max() / latents.abs().max()).item()
    assert 0 < difference < 0.005  # 0.0007, measured on a CPU that computes in bf16
    assert np.abs(half_images - images).mean() < 1  # 0.25 grey levels, at most 2


def test_another_autoencoder_is_refused(final: tuple[str, Path]) -> None:
    weights, autoencoder = final
    torch.manual_seed(1)
    mark = save_small(autoencoder, VQAutoencoder(tiny.AUTOENCODER))
    with pytest.raises(
        ValueError, match=rf"the fingerprint of the autoencoder in .* is {mark}, expected .*another autoenc"
    ):
        load_synthesiser(weights, autoencoder, tiny.SAMPLING, torch.device("cpu"))


def test_damaged_weights_are_refused(final: tuple[str, Path]) -> None:
    weights, autoencoder = final
    path = Path(weights) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights.safetensors has sha256 .*damaged"):
        load_synthesiser(weights, autoencoder, tiny.SAMPLING, torch.device("cpu"))
