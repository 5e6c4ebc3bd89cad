"""Members of a zip archive by their byte offset: the directory is read once, and any process reads any member."""

import os
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from scadm.data.zips import DAMAGED

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, then the lengths of the name and of the extra field that follow (APPNOTE 4.3.7)."""

_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_ENCRYPTED = 1

MEMBER_BYTES = 256 << 20
"""More than any picture of a face takes. A member that announces more is a mistake, or made to fill the memory."""


class Member(NamedTuple):
    name: str
    offset: int
    """Of its local header."""
    packed: int
    size: int
    deflated: bool
    crc: int


def list_members(path: Path) -> list[Member]:
    """The archive's files, in the directory's order.

    Raises ValueError if it is no whole zip archive, or has a member that no one who packs faces would make: under a
    name that leads out of a folder, or encrypted, or of another compression than deflate, or of `MEMBER_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except DAMAGED as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be opened as a zip archive ({error}), expected a whole one. "
            "Its faces cannot be found: if it was downloaded, download it again to the end."
        ) from None
    members = []
    for info in infos:
        if info.is_dir():
            continue
        where = f"{info.filename} in {path}"
        parts = PurePosixPath(info.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in info.filename:
            raise ValueError(f"{where} leads out of the archive's folder, expected a plain relative name. Remove it.")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"{where} is encrypted, expected plain members. Pack the archive without a password.")
        if info.compress_type not in (_STORED, _DEFLATED):
            raise ValueError(
                f"{where} is compressed by method {info.compress_type}, expected stored or deflated members. Pack the "
                "archive with an ordinary zip program."
            )
        if info.file_size > MEMBER_BYTES:
            raise ValueError(
                f"{where} unpacks to {info.file_size} bytes, expected at most {MEMBER_BYTES}, which no picture of a "
                "face takes. Remove it."
            )
        members.append(
            Member(
                info.filename,
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.compress_type == _DEFLATED,
                info.CRC,
            )
        )
    return members


def read_member(path: Path, member: Member) -> bytes:
    """A member's content. Raises ValueError, saying what is wrong, unless it is what the directory recorded."""
    try:
        file = _open(str(path), path.stat().st_mtime_ns)
        header = os.pread(file.number, _LOCAL_HEADER.size, member.offset)
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4":
            raise ValueError("Bad magic number for file header")
        packed = os.pread(file.number, member.packed, member.offset + _LOCAL_HEADER.size + name + extra)
        if len(packed) != member.packed:
            raise ValueError(f"it ends after {len(packed)} of {member.packed} bytes")
        content = packed
        if member.deflated:
            # One byte more than was announced is enough to know of a member that would fill the memory.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
        if len(content) != member.size:
            raise ValueError(f"it unpacks to {len(content)} bytes or more, not to {member.size}")
        if zlib.crc32(content) != member.crc:
            raise ValueError("Bad CRC-32")
    except (ValueError, OSError, struct.error, zlib.error) as error:
        raise ValueError(
            f"{member.name} in {path} is damaged ({error}), expected the bytes that the archive recorded. Its face "
            "would be wrong: download or pack the archive again, or list the id under data.known_bad."
        ) from None
    return content


class _File:
    """A file that stays open, and is closed with the last reference to it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.number)


@lru_cache(maxsize=4)
def _open(path: str, changed: int) -> _File:
    """A process's one descriptor of an archive; `os.pread` needs no lock between threads."""
    return _File(path)
