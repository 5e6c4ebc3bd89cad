"""Images to latents and back, behind one protocol."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors.torch import load_file, save_file

from scadm.files.weights import WEIGHTS
from scadm.first_stage import LatentScale, import_vq_f4, load_first_stage, save_pixels, save_small
from scadm.models.autoencoder import VQAutoencoder

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def vq_folder(folder: Path, levels: int = 3, seed: int = 0) -> Path:
    """A tiny VQModel as diffusers saves it."""
    torch.manual_seed(seed)
    VQModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=3,
        num_vq_embeddings=16,
        norm_num_groups=4,
        vq_embed_dim=3,
    ).save_pretrained(folder)
    return folder


def test_a_small_one_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = VQAutoencoder(tiny.AUTOENCODER)
    mark = save_small(tmp_path, model)
    loaded = load_first_stage(tmp_path)
    assert loaded.fingerprint == mark
    assert loaded.model.latent_channels == 3
    latent = loaded.model.encode(IMAGE)
    assert torch.equal(latent, model.encode(IMAGE))
    assert torch.equal(loaded.model.decode(latent), model.decode(latent))
    assert not latent.requires_grad


def test_pixels_lose_nothing_and_stay_where_they_are(tmp_path: Path) -> None:
    mark = save_pixels(tmp_path)
    loaded = load_first_stage(tmp_path)
    assert loaded.fingerprint == mark
    latent = loaded.model.encode(IMAGE)
    assert latent.shape == (2, loaded.model.latent_channels, 4, 4)
    assert torch.equal(loaded.model.decode(latent), IMAGE)
    changed = IMAGE.clone()
    changed[:, :, :4, 4:8] += 1  # one cell
    assert (loaded.model.encode(changed) != latent).any(dim=1).nonzero().tolist() == [[0, 0, 1], [1, 0, 1]]


def test_its_weights_must_fit_its_configuration(tmp_path: Path) -> None:
    save_small(tmp_path, VQAutoencoder(tiny.AUTOENCODER))
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["config"]["codes"] = 17
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"codebook \(16, 3\), expected \(17, 3\)"):
        load_first_stage(tmp_path)


def test_fingerprints_tell_weights_apart(tmp_path: Path) -> None:
    marks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        marks.append(save_small(tmp_path, VQAutoencoder(tiny.AUTOENCODER)))
    assert marks[0] == marks[1] != marks[2]


def test_a_pretrained_vq_is_taken_in(tmp_path: Path) -> None:
    weights, folder = vq_folder(tmp_path / "given"), tmp_path / "models"
    folder.mkdir()
    mark = import_vq_f4(folder, weights)
    loaded = load_first_stage(folder)
    assert loaded.fingerprint == mark
    assert loaded.model.latent_channels == 3
    latent = loaded.model.encode(IMAGE)
    assert latent.shape == (2, 3, 4, 4)
    given = VQModel.from_pretrained(str(weights)).eval()
    with torch.no_grad():
        torch.testing.assert_close(latent, given.encode(IMAGE).latents)  # before quantisation
        codes = given.quantize(latent)[0]
        torch.testing.assert_close(loaded.model.decode(latent), given.decode(codes, force_not_quantize=True).sample)
    assert (latent - codes).abs().max() > 0
    other = tmp_path / "other"
    other.mkdir()
    assert import_vq_f4(other, vq_folder(tmp_path / "second", seed=1)) != mark


@pytest.mark.parametrize("kind", ["small", "vq-f4"])
def test_weights_that_were_changed_are_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    if kind == "small":
        torch.manual_seed(1)
        mark, file = save_small(folder, VQAutoencoder(tiny.AUTOENCODER)), folder / WEIGHTS
    else:
        mark = import_vq_f4(folder, vq_folder(tmp_path / "given"))
        file = folder / "vq-f4" / "diffusion_pytorch_model.safetensors"
    assert load_first_stage(folder).fingerprint == mark
    state = load_file(file)
    name = next(name for name, tensor in state.items() if tensor.ndim > 1)
    state[name][0, 0] += 0.5  # it still fits the configuration
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=f"the fingerprint of the weights in {folder} is .*, expected {mark}.*dvc repro"
    ):
        load_first_stage(folder)


def test_a_vq_of_another_downsampling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="downsamples by 2, expected 4"):
        import_vq_f4(tmp_path, vq_folder(tmp_path / "given", levels=2))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"autoencoder.weights is '.*none', expected a folder with a diffusers VQModel"
    ):
        import_vq_f4(tmp_path, tmp_path / "none")
    with pytest.raises(
        ValueError, match=f"config.json does not exist, expected a folder with config.json and {WEIGHTS}"
    ):
        load_first_stage(tmp_path)


def test_latent_scale_is_undone_by_its_inverse() -> None:
    scale = LatentScale((0.5, -1.0, 3.0), (2.0, 0.1, 7.0))
    stored = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = scale.to_model(stored)
    torch.testing.assert_close(seen[:, 1], (stored[:, 1] + 1) / 0.1)
    torch.testing.assert_close(scale.to_stored(seen), stored)
    assert torch.equal(LatentScale.identity(3).to_model(stored), stored)
