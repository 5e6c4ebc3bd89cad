"""What reading a zip archive that is damaged can raise."""

import lzma
import struct
import zipfile
import zlib

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,  # an unknown method of compression
    RuntimeError,  # encrypted
    UnicodeDecodeError,
)
