"""Recognises the format of a weight file by its first bytes, or says in one line why it cannot be read."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")

# File names in folders of model hubs and of this project's runs; the first that exists is used.
FOLDER_NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_CONVERT = "convert it to a .safetensors or .pth file with the library that made it"
_UNPACK = "unpack it, and name the weight file in it"
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer instead of the weights; run `git lfs pull` where it came from",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, of Keras or TensorFlow; {_CONVERT}",
    b"GGUF": f"a GGUF file, of llama.cpp; {_CONVERT}",
    b"\x93NUMPY": f"a NumPy array; {_CONVERT}",
    b"\x1f\x8b": f"a gzip archive; {_UNPACK}",
    b"BZh": f"a bzip2 archive; {_UNPACK}",
    b"\xfd7zXZ": f"an xz archive; {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"a zstd archive; {_UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive; {_UNPACK}",
    b"Rar!": f"a RAR archive; {_UNPACK}",
    b"%PDF": "a PDF; download the weights again",
    b"\x89PNG": "an image; name the file of the weights",
    b"\xff\xd8\xff": "an image; name the file of the weights",
}
_FOREIGN_NAMES = {
    ".onnx": f"an ONNX file; {_CONVERT}",
    ".msgpack": f"a file of Flax; {_CONVERT}",
    ".pb": f"a TensorFlow graph; {_CONVERT}",
    ".tflite": f"a TensorFlow Lite file; {_CONVERT}",
    ".index": f"a part of a TensorFlow checkpoint; {_CONVERT}",
    ".meta": f"a part of a TensorFlow checkpoint; {_CONVERT}",
    ".pdparams": f"a file of PaddlePaddle; {_CONVERT}",
    ".caffemodel": f"a file of Caffe; {_CONVERT}",
}
_AGAIN = "download or copy it again"


def weight_file(path: Path, *, what: str) -> tuple[Path, str]:
    """The file that a path refers to, and its kind: `safetensors`, `index`, `torch`, `torchscript` or `legacy`.

    A folder stands for the weight file in it.

    Raises:
        UserError: if there is no such file, or its kind is not supported.
    """
    if path.is_dir():
        path = _file_in(path, what=what)
    if not path.is_file():
        raise UserError(f"{what}: no file {path}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{what}: {os_error_message(error)}") from error
    kind = _kind(path, start)
    if kind not in ("safetensors", "index", "torch", "torchscript", "legacy"):
        raise UserError(f"{what}: {path} is {kind}")
    return path, kind


def _file_in(folder: Path, *, what: str) -> Path:
    named = [folder / name for name in FOLDER_NAMES if (folder / name).is_file()]
    if named:
        return named[0]
    if (folder / "data.pkl").is_file():
        raise UserError(
            f"{what}: {folder} is a PyTorch file that was unpacked; name the file itself, or pack it again: "
            f"cd {folder.parent} && zip -0r {folder.name}.pth {folder.name}"
        )
    endings = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
    found = sorted(path for path in folder.iterdir() if path.suffix in endings and path.is_file())
    if len(found) == 1:
        return found[0]
    there = ", ".join(path.name for path in found[:4]) + (" …" if len(found) > 4 else "")
    raise UserError(
        f"{what}: {folder} is a folder; name the file in it{f': it has {there}' if found else ', it has no weights'}"
    )


def _kind(path: Path, start: bytes) -> str:
    if not start:
        return f"empty; {_AGAIN}"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page instead of the weights; download the file itself, not the page that shows it"
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            return kind
    if path.suffix in _FOREIGN_NAMES:
        return _FOREIGN_NAMES[path.suffix]
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    if start[8:9] == b"{" and start[:1] != b"{":
        return "safetensors"
    if start[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    if start.startswith(b"\x80"):
        return "legacy"
    if start.lstrip().startswith(b"{"):
        return "index" if path.name.endswith(".index.json") else "JSON text; name the file of the weights"
    if path.suffix == ".safetensors":
        return f"truncated or not a safetensors file; {_AGAIN}"
    if not any(start.strip(b"\0")):
        return f"full of zeros, as after an interrupted download; {_AGAIN}"
    return f"truncated or not a weight file; {_AGAIN}"


def _kind_of_zip(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return f"truncated ({path.stat().st_size} bytes); {_AGAIN}"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return f"damaged; {_AGAIN}"
    inside = {name.partition("/")[2] for name in names}
    if "data.pkl" in inside:
        return "torchscript" if "constants.pkl" in inside else "torch"
    if any(name.endswith(".npy") for name in names):
        return f"a file of NumPy arrays, as JAX's models are saved; {_CONVERT}"
    if "model.weights.h5" in names:
        return f"a file of Keras; {_CONVERT}"
    return f"a zip archive; {_UNPACK}"


def warn_of_damage(path: Path) -> None:
    """Warn if a zip file's checksums differ from its content, since PyTorch does not compare them."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            log.warning(
                "%s: the checksum of %s differs: it is damaged, or was written without checksums", path, damaged
            )


def shards(index: Path, *, what: str) -> list[Path]:
    """The files that a `*.index.json` names.

    Raises:
        UserError: if it names none.
    """
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{what}: {index} names no weight files") from error
