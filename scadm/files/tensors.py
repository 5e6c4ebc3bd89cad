"""Named tensors as a safetensors file, by pieces: it is never held beside the tensors that it is made of, or makes.

The library's own functions hold the whole file in memory; the bytes are the same.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""By the format's names, in the order in which the library writes them: so each tensor is aligned."""
_OF_NAME = {name: dtype for dtype, name in _TYPES.items()}
_ORDER = list(_TYPES)
_LONGEST_HEADER = 100_000_000  # bytes; the library's limit


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of the file. A tensor is copied only while its own bytes are taken, and where it must be."""
    ordered = sorted(tensors.items(), key=lambda item: (_ORDER.index(item[1].dtype), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        if tensor.numel():
            yield _bytes(tensor.detach().cpu().contiguous())


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


class _Source:
    """Pieces of any size, taken by amounts of any size."""

    def __init__(self, given: Iterator[bytes]) -> None:
        self.given, self._left = given, memoryview(b"")

    def fill(self, target: memoryview) -> None:
        """Raises ValueError where the pieces end before."""
        while len(target):
            if not len(self._left):
                piece = next(self.given, None)
                if piece is None:
                    raise ValueError("it ends early")
                self._left = memoryview(piece)
            taken = min(len(target), len(self._left))
            target[:taken] = self._left[:taken]
            target, self._left = target[taken:], self._left[taken:]

    def take(self, size: int) -> bytes:
        data = bytearray(size)
        self.fill(memoryview(data))
        return bytes(data)


def load(given: Iterator[bytes], size: int, what: str) -> dict[str, Tensor]:
    """The tensors of a file of `size` bytes that comes by pieces; raises ValueError if it is none, naming it `what`.

    All pieces are taken in any case, so that who gives them can compare them with a digest, and then says so first.
    """
    source = _Source(given)
    try:
        header = _header(source, size)
    except (ValueError, KeyError, TypeError) as error:
        for _ in given:
            pass
        raise ValueError(
            f"{what} is not a safetensors file of {size} bytes that can be read here: {error!r}."
        ) from None
    found = {}
    for name, (dtype, shape) in header.items():
        found[name] = torch.empty(shape, dtype=dtype)
        if found[name].numel():
            source.fill(_bytes(found[name]))
    for _ in given:  # nothing: the header says where the last tensor ends
        pass
    return found


def _header(source: _Source, size: int) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Types and shapes, in the order of the data. Nothing is allocated by a header that does not fit the file."""
    length = int.from_bytes(source.take(8), "little")
    if length > min(size, _LONGEST_HEADER):
        raise ValueError(f"a header of {length} bytes")
    tree: dict[str, Any] = json.loads(source.take(length))
    tree.pop("__metadata__", None)
    header, end = {}, 0
    for name, entry in sorted(tree.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = _OF_NAME[entry["dtype"]], entry["shape"]
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        if entry["data_offsets"] != [start, end]:
            raise ValueError(f"{name} lies at {entry['data_offsets']}, expected {[start, end]}")
        header[name] = (dtype, shape)
    if 8 + length + end != size:
        raise ValueError(f"{size} bytes, expected {8 + length + end}")
    return header
