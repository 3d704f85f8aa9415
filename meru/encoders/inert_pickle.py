"""Reads PyTorch files that contain more than tensors, without running any code from them.

`torch.load(weights_only=True)` refuses files that hold an `argparse.Namespace` or a NumPy scalar beside the tensors,
whole pickled models, and TorchScript, whose loader runs code from the archive. This reader restores tensors and
containers; objects of every other class become inert stand-ins that keep only their attributes.
"""

from __future__ import annotations

import pickle
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

# Names from Python's standard library that trainers leave in checkpoints. Any other could run code.
_HARMLESS = {
    "argparse", "array", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "inspect", "logging", "numbers", "pathlib", "random", "time", "types", "typing", "uuid", "zoneinfo",
}  # fmt: skip
# Functions that libraries call in their own pickles; this reader does not call them.
_FUNCTIONS_OF = {
    "_codecs", "collections", "functools", "numpy._core.multiarray", "numpy._core.numeric", "numpy.core.multiarray",
    "numpy.core.numeric", "numpy.random._pickle", "torch._tensor", "torch._utils", "torch.storage",
}  # fmt: skip
_LOWER_CASE_TYPES = {("numpy", "dtype"), ("numpy", "ndarray")}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class DangerousFileError(Exception):
    """The pickle of a file would call something that no weight file needs; the message names it."""


class _StandInType(type):
    """Makes calls of a class create a stand-in, and refuses calls of functions."""

    def __call__(cls, *_: object, **__: object) -> StandIn:
        if cls.is_function:
            raise DangerousFileError(cls.original)
        return cls.__new__(cls)


class StandIn(dict, metaclass=_StandInType):
    """Replaces an object of a class that is not loaded.

    Attributes:
        original: The class's full name.
        attributes: The content of the object's `__dict__`.
    """

    original = ""
    is_function = False

    def __new__(cls, *_: object, **__: object) -> StandIn:
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: object) -> None:
        """Keep a `__dict__`, alone or in a pair with slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes = part

    def append(self, _: object) -> None:
        """Discard an item of an object that was a list."""

    add = extend = append
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _stand_in(module: str, name: str) -> type:
    last = name.rpartition(".")[2].lstrip("_")
    is_function = last[:1].islower() and module not in _FUNCTIONS_OF and (module, name) not in _LOWER_CASE_TYPES
    return _StandInType(last or "StandIn", (StandIn,), {"original": f"{module}.{name}", "is_function": is_function})


def _first(value: object, *_: object) -> object:
    return value


def _reconstructor(kind: type, *_: object) -> object:
    return kind.__new__(kind)


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "bool", "double", "tensor")},
    ("copyreg", "_reconstructor"): _reconstructor,
    **{
        ("builtins", kind.__name__): kind
        for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, slice, object)
    },
}


class InertUnpickler(pickle.Unpickler):
    """Builds containers and tensors; everything else in a pickle becomes a `StandIn`."""

    def find_class(self, module: str, name: str) -> object:
        """The few known types and functions, a storage's or a dtype's name, or a stand-in.

        Raises:
            DangerousFileError: for most of Python's standard library, which attacks would use.
        """
        # Pickles before protocol 3 use names of Python 2: `commands.Popen` is `subprocess.Popen`.
        module, name = NAME_MAPPING.get((module, name), (module, name))
        module = IMPORT_MAPPING.get(module, module)
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        root = module.partition(".")[0]
        if root in sys.stdlib_module_names and root not in _HARMLESS and (module, name) != ("_codecs", "encode"):
            raise DangerousFileError(f"{module}.{name}")
        return _stand_in(module, name)


def read_inertly(path: Path) -> object:
    """The content of a file of `torch.save` or `torch.jit.save`, with stand-ins for all but tensors and containers.

    Raises:
        DangerousFileError: if reading it the usual way would run something that no weight file needs.
        Exception: of various types, for a damaged file.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    module = SimpleNamespace(__name__="inert_pickle", Unpickler=InertUnpickler, load=_load)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the source code of pickled models
        # Written before PyTorch 1.6. torch.load uses the unpickler of the module passed to it.
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)


def _load(file: object, **arguments: object) -> object:
    return InertUnpickler(file, **arguments).load()


def _read_zip(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        storages: dict[str, torch.storage.TypedStorage] = {}

        def storage(identity: tuple) -> torch.storage.TypedStorage:
            _, dtype, key, *_ = identity
            if key not in storages:
                content = bytearray(archive.read(f"{folder}data/{key}"))  # zipfile compares the checksum
                flat = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
                storages[key] = torch.storage.TypedStorage(
                    wrap_storage=flat.untyped_storage(), dtype=dtype, _internal=True
                )
            return storages[key]

        with archive.open(f"{folder}data.pkl") as file:
            unpickler = InertUnpickler(file, encoding="utf-8")
            unpickler.persistent_load = storage
            return unpickler.load()


def module_weights(module: StandIn, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of what was an `nn.Module` or a TorchScript module; empty for other objects."""
    found: dict[str, Tensor] = {}
    parts = module.attributes
    if isinstance(parts.get("_modules"), dict):  # a Python module has separate dicts, TorchScript mixes them
        parts = {**(parts.get("_parameters") or {}), **(parts.get("_buffers") or {}), **parts["_modules"]}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            found[f"{prefix}{name}"] = part
        elif isinstance(part, StandIn):
            found |= module_weights(part, f"{prefix}{name}.")
    return found
