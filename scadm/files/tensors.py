"""Named tensors as a safetensors file, by pieces: the file is never held beside the tensors that it is made of.

The library's own functions copy all tensors, some of them twice, which a machine of one GPU may not have room for; the
bytes are the same. What reads them is the library.
"""

import json
from collections.abc import Iterator, Mapping

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
_ORDER = list(_TYPES)


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
