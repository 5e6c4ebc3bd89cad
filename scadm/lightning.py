"""Opening a Lightning checkpoint without running what is pickled in it."""

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class _Inert:
    """Takes the place of any class or function that is not needed to rebuild tensors; it does nothing."""

    dump_patches = False  # which torch asks of a module's class in its older form of file

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


class _Function:
    """A function whose attributes a pickle cannot change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            return _Inert
        found = super().find_class(module, name)
        return _Function(found) if module == "torch._utils" else found


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
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {fault}, expected a checkpoint file (.ckpt, .pt or .safetensors).")
    try:
        if path.suffix == ".safetensors":
            tree: Any = load_file(path)
        else:
            # Mapped, so that only what is used is read: an optimiser's state is twice the size of the weights.
            mapped = zipfile.is_zipfile(path)
            with warnings.catch_warnings():  # torch's, of classes that are not what they were
                warnings.simplefilter("ignore")
                try:
                    tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
                except pickle.UnpicklingError:
                    tree = torch.load(path, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=_Pickle)
    except Exception as error:  # a zip, a tar or a pickle that is damaged raises whatever its reader raises
        raise ValueError(
            f"{path} cannot be read as a checkpoint: {type(error).__name__}: {error}. Expected a file of Lightning, "
            "torch.save or safetensors; download it again if it was cut off."
        ) from None
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    state = state if isinstance(state, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no named tensors, expected a state dict, by itself or under 'state_dict'.")
    return tensors
