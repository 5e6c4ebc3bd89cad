"""Members of a zip archive by their offset, and the archives that are refused."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadm.data import members
from scadm.data.members import list_members, read_member

CONTENT = st.dictionaries(
    st.text("abcdefgh/", min_size=1, max_size=8).filter(lambda name: not name.startswith("/") and name[-1] != "/"),
    st.binary(max_size=3000),
    max_size=8,
)


def pack(path: Path, content: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, before: bytes = b"") -> Path:
    path.write_bytes(before)
    with zipfile.ZipFile(path, "a", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@settings(max_examples=60, deadline=None)
@given(
    content=CONTENT, method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), before=st.binary(max_size=9)
)
def test_members_read_back_as_zipfile_reads_them(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], method: int, before: bytes
) -> None:
    path = pack(tmp_path_factory.mktemp("zip") / "a.zip", content, method, before)
    found = list_members(path)
    assert [member.name for member in found] == list(content)
    assert {member.name: read_member(path, member) for member in found} == content


def test_a_large_archive_s_offsets_are_read(tmp_path: Path) -> None:
    """Beyond 4 GiB the directory writes them in an extra field; a sparse file takes no space."""
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(5 << 30)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("face", b"at the end")
    (member,) = list_members(path)
    assert member.offset > 4 << 30
    assert read_member(path, member) == b"at the end"


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "C:/out.png", "..\\out.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of the archive's folder"):
        list_members(pack(tmp_path / "a.zip", {name: b"x"}))


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"face.png": b"x" * 100})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 8] |= 1  # the flag of encryption
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"face.png in .*is encrypted"):
        list_members(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(ValueError, match=f"is compressed by method {method}"):
        list_members(pack(tmp_path / "a.zip", {"face.png": b"x" * 100}, method))


def test_a_member_that_announces_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MEMBER_BYTES", 1000)
    with pytest.raises(ValueError, match="unpacks to 1001 bytes, expected at most 1000"):
        list_members(pack(tmp_path / "a.zip", {"face.png": b"\0" * 1001}))


def test_a_member_that_holds_more_than_it_announces_is_not_unpacked(tmp_path: Path) -> None:
    """A bomb that lies about its size: 200 MB of zeros, announced as 1000 bytes."""
    path = pack(tmp_path / "a.zip", {"face.png": b"\0" * 200_000_000})
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", data, data.index(signature) + place, 1000)
    path.write_bytes(data)
    (member,) = list_members(path)
    with pytest.raises(ValueError, match=r"face.png in .*damaged .it unpacks to 1001 bytes or more, not to 1000"):
        read_member(path, member)


def test_an_archive_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"face": b"one"})
    (member,) = list_members(path)
    assert read_member(path, member) == b"one"
    path.unlink()
    pack(path, {"face": b"two"})
    (member,) = list_members(path)
    assert read_member(path, member) == b"two"
