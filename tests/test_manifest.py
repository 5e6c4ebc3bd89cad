"""Manifests: what is in an out, and how a damaged one is told."""

import json
from pathlib import Path

import pytest

from scadm import faces
from scadm.files import manifest
from scadm.files.manifest import FILE_NAME, Manifest, describe_files, digest, require_same, write_atomically


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished out of two files."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.tar").write_bytes(b"first")
    (folder / "b.tar").write_bytes(b"second")
    written = Manifest(
        stage="latents",
        resolution=64,
        counts={"faces": 3},
        splits={"train": ("1", "2"), "test": ("3",)},
        inputs={"data/onehot": "0" * 64},
        files=describe_files(folder, ["b.tar", "a.tar"]),
        latent_mean=(0.5, 0.25),
        latent_std=(1.0, 2.0),
    )
    written.write(folder)
    return folder


def test_it_reads_back_as_written(out: Path) -> None:
    read = Manifest.read(out)
    assert read.labels == faces.LABELS
    assert read.splits == {"train": ("1", "2"), "test": ("3",)}
    assert read.latent_mean == (0.5, 0.25)
    assert list(read.files) == ["a.tar", "b.tar"]
    again = out.parent / "again"
    read.write(again)
    assert (again / FILE_NAME).read_bytes() == (out / FILE_NAME).read_bytes()
    assert Manifest.read(again, verify=False).digest == read.digest


def test_its_digest_tells_contents_apart(out: Path) -> None:
    read = Manifest.read(out)
    assert read.digest != read.model_copy(update={"resolution": 128}).digest
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_where_the_bytes_came_from_is_not_in_its_digest(out: Path) -> None:
    """So the same archive from a mirror, or from a path, trains nothing again."""
    local = Manifest.read(out)
    mirrors = [
        local.model_copy(update={"address": address, "terms": "for research"}) for address in ("https://a/x", "drive:X")
    ]
    assert [mirror.digest for mirror in mirrors] == [local.digest] * 2
    assert local.digest != local.model_copy(update={"source": "folder"}).digest


def test_a_missing_file_is_found(out: Path) -> None:
    (out / "a.tar").unlink()
    with pytest.raises(ValueError, match=r"a.tar is missing, manifest.json lists it. Delete .* and run `dvc repro`"):
        Manifest.read(out)
    Manifest.read(out, verify=False)


def test_another_size_is_found(out: Path) -> None:
    (out / "a.tar").write_bytes(b"fir")
    with pytest.raises(ValueError, match=r"a.tar has 3 bytes, manifest.json says 5"):
        Manifest.read(out)


def test_other_content_is_found(out: Path) -> None:
    said = Manifest.read(out).files["a.tar"].sha256
    (out / "a.tar").write_bytes(b"FIRST")
    found = manifest.sha256(out / "a.tar")
    with pytest.raises(ValueError, match=f"a.tar has sha256 {found}, manifest.json says {said}"):
        Manifest.read(out)


def test_other_labels_are_refused(out: Path) -> None:
    tree = json.loads((out / FILE_NAME).read_text())
    tree["labels"] = tree["labels"][::-1]
    (out / FILE_NAME).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"manifest.json uses the labels \['cloth'"):
        Manifest.read(out)


def test_an_unfinished_or_unreadable_out_is_refused(out: Path) -> None:
    (out / FILE_NAME).write_text('{"stage": "lat')
    with pytest.raises(ValueError, match=r"manifest.json cannot be read"):
        Manifest.read(out)
    (out / FILE_NAME).unlink()
    with pytest.raises(ValueError, match=r"has no manifest.json, so it is not a finished out"):
        Manifest.read(out)


def test_an_unknown_field_is_refused(out: Path) -> None:
    tree = json.loads((out / FILE_NAME).read_text())
    (out / FILE_NAME).write_text(json.dumps(tree | {"colour": "red"}))
    with pytest.raises(ValueError, match=r"colour"):
        Manifest.read(out)


def test_progress_receives_every_byte(out: Path) -> None:
    sizes: list[int] = []
    describe_files(out, ["a.tar", "b.tar"], sizes.append)
    assert sizes == [5, 6]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "value.json"
    write_atomically(target, "old")
    write_atomically(target, b"older")
    assert target.read_text() == "older"
    assert target.stat().st_mode & 0o777 == 0o644

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "older"
    assert [path.name for path in target.parent.iterdir()] == ["value.json"]


def test_require_same_names_both_values() -> None:
    require_same("the resolution", 64, 64, "")
    with pytest.raises(ValueError, match=r"^the resolution is 64, expected 128. Run it again.$"):
        require_same("the resolution", 64, 128, "Run it again.")
