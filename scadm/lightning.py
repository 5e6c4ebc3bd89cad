"""Opening a Lightning checkpoint without running what is pickled in it."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class _Inert:
    """Takes the place of any class or function that is not needed to rebuild tensors; it does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return self

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


_ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(("torch", f"{kind}Storage") for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char")),
    *(("torch", f"{kind}Storage") for kind in ("Byte", "Bool")),
    *(("torch", kind) for kind in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")),
    ("torch", "Size"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in _ALLOWED else _Inert


class _Pickle:
    """What torch.load takes for its `pickle_module`."""

    Unpickler = _Unpickler
    __name__ = "pickle without code"

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning, torch or safetensors file, on the CPU.

    First as torch's weights_only allows; where that refuses a class that Lightning has pickled beside the weights (its
    callbacks, its hyper-parameters), with an inert placeholder in the place of each. Raises ValueError for a file that
    is none of these or that holds no tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a checkpoint file (.ckpt, .pt or .safetensors).")
    try:
        if path.suffix == ".safetensors":
            tree: Any = load_file(path)
        else:
            try:
                tree = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                tree = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Pickle)
    except Exception as error:  # a zip, a tar or a pickle that is damaged raises whatever its reader raises
        raise ValueError(
            f"{path} cannot be read as a checkpoint: {type(error).__name__}: {error}. Expected a file of Lightning, "
            "torch.save or safetensors; download it again if it was cut off."
        ) from None
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no named tensors, expected a state dict, by itself or under 'state_dict'.")
    return tensors
