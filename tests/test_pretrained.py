"""A pretrained VQ-f4 in each form in which it comes, and what is said of files that are none."""

import json
import zipfile
from pathlib import Path

import published
import pytest
import torch
from safetensors.torch import save_file

from scadm.files.weights import fingerprint
from scadm.interop import first_stage_from_published
from scadm.pretrained import open_vq_f4


@pytest.fixture(scope="module")
def state(reference: Path) -> published.State:
    return published.small_vq_state(reference)


@pytest.fixture(scope="module")
def mark(state: published.State) -> str:
    return fingerprint({}, first_stage_from_published(state).model.state_dict())


@pytest.fixture
def checkpoint(state: published.State, tmp_path: Path) -> Path:
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.fixture
def vq_folder(state: published.State, tmp_path: Path) -> Path:
    first_stage_from_published(state).model.save_pretrained(tmp_path / "vqvae")
    return tmp_path / "vqvae"


def pack(path: Path, members: dict[str, Path | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else content.read_bytes())
    return path


def found(weights: Path) -> str:
    return fingerprint({}, open_vq_f4(weights).model.state_dict())


def test_every_form_gives_the_same_weights(
    state: published.State, mark: str, checkpoint: Path, vq_folder: Path, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    litter = {"__MACOSX/._model.ckpt": b"litter", "a/._b.ckpt": b"litter"}
    forms = [
        checkpoint,
        tmp_path / "model.safetensors",
        vq_folder,
        pack(tmp_path / "checkpoint.zip", litter | {"vq-f4/model.ckpt": checkpoint, "vq-f4/readme.txt": b"read me"}),
    ]
    of_diffusers = {path.name: path for path in vq_folder.iterdir()}
    forms.append(pack(tmp_path / "flat.zip", {**of_diffusers}))
    other = {"unet/config.json": json.dumps({"_class_name": "UNet2DModel"}).encode(), "unet/weights.bin": b"-"}
    nested = {f"ldm/vqvae/{name}": path for name, path in of_diffusers.items()}
    forms.append(pack(tmp_path / "nested.zip", {**other, **nested}))
    assert [found(form) for form in forms] == [mark] * len(forms)


def test_a_path_with_nothing_names_what_could_be_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"autoencoder.weights is {path}, ") as error:
            open_vq_f4(path)
        for form in ("folder with a diffusers VQModel", ".ckpt", ".safetensors", "zip", "address"):
            assert form in str(error.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme.txt": b"-"}, "holds neither a checkpoint nor a VQModel, expected one checkpoint"),
        ({"a.ckpt": b"-", "b/c.safetensors": b"-"}, r"holds a\.ckpt, b/c\.safetensors, expected one checkpoint"),
        ({"a.ckpt": b"not one"}, r"a\.ckpt in .*vq\.zip cannot be read as a checkpoint"),
        ({"vq/config.json": b'{"_class_name": "VQModel"}'}, r"is vq in .*vq\.zip, which cannot be opened: "),
        ({"config.json": b"{", "diffusion_pytorch_model.bin": b"-"}, "holds neither a checkpoint nor a VQModel"),
    ],
)
def test_a_zip_without_the_one_first_stage(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_vq_f4(pack(tmp_path / "vq.zip", {**members}))


def test_a_zip_that_cannot_be_read(checkpoint: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "vq.zip", {"model.ckpt": checkpoint})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[0].header_offset
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    encrypted = bytearray(whole)
    encrypted[at + 6] |= 1  # the flag, in the member's header and in the directory's
    encrypted[whole.rindex(b"PK\1\2") + 8] |= 1
    for content, reason in (
        (damaged, "Bad CRC-32"),
        (encrypted, "encrypted"),
        (whole[: len(whole) // 2], "no directory at its end"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"vq\.zip cannot be read as a zip archive: .*{reason}.*password"):
            open_vq_f4(path)


def test_a_file_of_something_else_is_named(tmp_path: Path, vq_folder: Path) -> None:
    (tmp_path / "model.ckpt").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ValueError, match=r"model\.ckpt cannot be read as a checkpoint: (.|\n)*Expected a folder with"):
        open_vq_f4(tmp_path / "model.ckpt")
    weights = vq_folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"autoencoder.weights is {vq_folder}, which cannot be opened"):
        open_vq_f4(vq_folder)
