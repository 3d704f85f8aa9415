"""`scripts/export.py`: a finished model in the files that other programs read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meru.assemble import is_discovery
from meru.configuration.kinds import Whole
from meru.errors import UserError
from meru.export.card import model_card
from meru.export.folders import appearing, free_folder
from meru.export.hub import check_target, push, write_model
from meru.export.licences import licence_of
from meru.export.onnx_files import OPSET, PIXELS, check_opset, require_libraries, write_onnx
from meru.export.published import checkpoint_file, write_published
from meru.files import write_text
from meru.sources.hub_folder import CARD
from meru.sources.opened import Opened
from meru.sources.opening import open_source

log = logging.getLogger("meru")


@dataclass(frozen=True)
class Format:
    """A format that a user can request.

    Attributes:
        write: Fills a folder; takes the opened source, the folder and the format's options by name.
        options: Name → function that reads the user's word, or raises `UserError`.
        check: Called with the options before anything is read.
    """

    write: Callable[..., None]
    options: Mapping[str, Callable[[str], object]] = field(default_factory=dict)
    check: Callable[..., None] = lambda **_: None


def export(given: Mapping[str, str]) -> str:
    """Export a model; returns a line with the folder.

    Args:
        given: The user's arguments: `run`, `format`, `output` and the options of the format.

    Raises:
        UserError: for missing or unsuitable arguments, and for models that the format cannot hold.
    """
    if missing := [key for key in ("run", "format", "output") if key not in given]:
        raise UserError(f"{missing[0]}= is missing; see --help")
    name = given["format"]
    if name not in FORMATS:
        raise UserError(f"format={name}: choose one of {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    words = {key: word for key, word in given.items() if key not in ("run", "format", "output")}
    if unknown := [key for key in words if key not in chosen.options]:
        takes = ", ".join(["run", "format", "output", *chosen.options])
        raise UserError(f"{unknown[0]}=: format={name} takes {takes}; see --help")
    options = {key: chosen.options[key](word) for key, word in words.items()}
    folder = free_folder(given["output"])
    chosen.check(**options)
    opened = open_source(given["run"])
    opened.pretrained.model.cpu().eval()
    with appearing(folder) as filled:
        chosen.write(opened, filled, **options)
        sizes = {path.name: path.stat().st_size for path in sorted(filled.iterdir())}
    if repository := options.get("push_to_hub"):
        log.info("%s", push(folder, repository, private=options.get("private", False)))
    listed = ", ".join(f"{file} ({_size(size)})" for file, size in sizes.items())
    return f"exported to {folder}: {listed}"


def write_safetensors(opened: Opened, folder: Path) -> None:
    """The weights, with what they are of in the file's metadata, and `config.json`: `meru.load` takes the folder."""
    model = opened.pretrained.model
    if opened.pretrained.tokenizer is None and not is_discovery(opened.config):
        raise UserError(f"run={opened.name} is an image tower alone, which its library saves: choose format=onnx")
    write_model(folder, opened.config, model, has_data=opened.has_data)


def write_hub(opened: Opened, folder: Path, *, push_to_hub: str | None = None, license: str | None = None, **_) -> None:
    """The files of `write_safetensors` and the model card."""
    write_safetensors(opened, folder)
    write_text(folder / CARD, model_card(opened, repository=push_to_hub, licence=license))


def write_meru(opened: Opened, folder: Path) -> None:
    """A checkpoint in the layout of the published MERU and HyCoCLIP models."""
    write_published(opened, folder / checkpoint_file(opened))


def write_onnx_files(opened: Opened, folder: Path, *, opset: int = OPSET, pixels: str = PIXELS[0]) -> None:
    """`image.onnx` and, for an image–text model, `text.onnx`."""
    write_onnx(opened.pretrained, folder, opset=opset, pixels=pixels)


def check_onnx(*, opset: int = OPSET, pixels: str = PIXELS[0]) -> None:
    """Check libraries and version of the operators."""
    require_libraries()
    check_opset(opset)


def check_hub(*, push_to_hub: str | None = None, private: bool | None = None, license: str | None = None) -> None:
    """Check that the options belong together and that the name of the repository can be one."""
    if push_to_hub is None and private is not None:
        raise UserError("private=: only with push_to_hub=<organisation/name>")
    if push_to_hub is not None:
        check_target(push_to_hub)


def whole_number(word: str) -> int:
    """An opset from a word."""
    if not word.strip().isdecimal() or not Whole(1, 1000).takes(int(word)):
        raise UserError(f"opset={word}: give a whole number, such as {OPSET}")
    return int(word)


def yes_or_no(word: str) -> bool:
    """`true` or `false` from a word."""
    if word.lower() not in ("true", "false"):
        raise UserError(f"private={word}: give true or false")
    return word.lower() == "true"


def kind_of_pixels(word: str) -> str:
    """One of `PIXELS`."""
    if word not in PIXELS:
        raise UserError(f"pixels={word}: choose one of {', '.join(PIXELS)}")
    return word


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.1f} kB"


FORMATS = {
    "safetensors": Format(write_safetensors),
    "onnx": Format(write_onnx_files, {"opset": whole_number, "pixels": kind_of_pixels}, check_onnx),
    "hub": Format(write_hub, {"push_to_hub": str, "private": yes_or_no, "license": licence_of}, check_hub),
    "meru": Format(write_meru),
}
