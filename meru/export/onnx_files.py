"""ONNX files of a model's sides, compared with PyTorch before they are kept."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from meru.assemble import Pretrained
from meru.encoders.weights import quietly, short
from meru.errors import UserError, require
from meru.export.sides import DiscoverySide, ImageSide, Side, TextSide, TowerSide

log = logging.getLogger("meru")

OLDEST_OPSET, OPSET = 18, 18  # PyTorch's exporter writes operators of 18 and later
TOLERANCE = 1e-4  # largest difference to PyTorch, as a share of the output's largest value
PIXELS = ("uint8", "float")
_ONE_FILE = 1_800_000_000  # bytes of weights that fit into an ONNX file; more go into a second file beside it
_CAPTIONS = ("a bird", "a small bird with a red crown, white wing bars and a long, pointed bill", "a photo of a gull")


@dataclass(frozen=True)
class Input:
    """An input of a side: its name, a batch of several samples, and names of the dimensions that may differ."""

    name: str
    example: Tensor
    dynamic: dict[int, str]
    most: dict[int, int]


def write_onnx(pretrained: Pretrained, folder: Path, *, opset: int = OPSET, pixels: str = "uint8") -> dict[str, Path]:
    """Write `image.onnx` and, for an image–text model, `text.onnx`, with any number of samples in a batch.

    Args:
        pretrained: In evaluation mode, on the CPU.
        folder: Exists.
        opset: Version of the operators.
        pixels: Type of images: `uint8`, or `float` in [0, 1].

    Returns:
        The files by their side, `image` and `text`.

    Raises:
        UserError: if a library is missing, the model cannot be exported, or results differ from PyTorch's.
    """
    require_libraries()
    require(pixels, PIXELS, key="pixels")
    check_opset(opset)
    files = {}
    for name, side, exact, given in sides_of(pretrained, pixels=pixels):
        files[name] = folder / f"{name}.onnx"
        _export(side, given, files[name], opset=opset)
        worst = largest_difference(exact, given, files[name])
        log.info("%s.onnx: largest difference to PyTorch %.1e of the largest value", name, worst)
        if not worst <= TOLERANCE:
            raise UserError(
                f"{name}.onnx differs from PyTorch by {worst:.1e}, more than {TOLERANCE:.0e}: nothing was written; try "
                "another opset=, or other versions of onnx and onnxruntime",
                exit_code=1,
            )
    return files


class _SpeltOut(TorchFunctionMode):
    """Spells out asinh of float64, which onnxruntime does not have: asinh(x) = sign(x) ln(|x| + √(x² + 1))."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function is torch.asinh and arguments[0].dtype == torch.float64:
            (x,) = arguments
            return x.sign() * (x.abs() + (x * x + 1).sqrt()).log()
        return function(*arguments, **(keywords or {}))


def require_libraries() -> None:
    """Raise a `UserError` unless the libraries of the extra `export` can be imported."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(
                f'format=onnx needs {name} ({short(error)}): pip install onnx onnxruntime onnxscript'
            ) from None


def check_opset(opset: int) -> None:
    """Raise a `UserError` for an opset that PyTorch or the installed onnx cannot write."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise UserError(f"opset={opset} is too old: the operators of this model need opset={OLDEST_OPSET} or later")
    if opset > newest:
        raise UserError(f"opset={opset}: the installed onnx knows versions up to {newest}")


def sides_of(pretrained: Pretrained, *, pixels: str) -> Iterator[tuple[str, Side, Side, Input]]:
    """The sides of a model by name: each to be exported, as the model itself computes it, and its input."""
    model = pretrained.model
    size = model.image_size
    shape = (3, 3, size, size) if isinstance(size, int) else (3, 3, *size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Input("image", images if pixels == "uint8" else images / 255, {0: "batch"}, {})
    if pretrained.tokenizer is None:
        side = DiscoverySide(model) if hasattr(model, "class_logits") else TowerSide(model)
        yield "image", side, side, image
        return
    yield "image", ImageSide(model), ImageSide(model), image
    tokens = pretrained.tokenizer.batch(list(_CAPTIONS))
    length = {1: model.textual.context_length}
    given = Input("tokens", tokens, {0: "batch", 1: "length"}, length)
    yield "text", TextSide(model, dense=True), TextSide(model, dense=False), given


def _export(side: Side, given: Input, path: Path, *, opset: int) -> None:
    dimensions = {
        index: torch.export.Dim(name, max=given.most[index]) if index in given.most else torch.export.Dim(name)
        for index, name in given.dynamic.items()
    }
    size = sum(each.numel() * each.element_size() for each in side.state_dict().values())
    # The exporter reports its progress on standard output, and more by warnings and logging.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), quietly(), torch.no_grad(), _SpeltOut():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                side.eval(),
                (given.example,),
                str(path),
                input_names=[given.name],
                output_names=list(side.outputs),
                opset_version=opset,
                dynamo=True,
                external_data=size > _ONE_FILE,
                dynamic_shapes={given.name: dimensions},
                verbose=False,
            )
        except Exception as error:  # the exporter wraps whatever went wrong in types of its own
            raise UserError(
                f"{path.name}: PyTorch cannot export this model ({_reason(error)}): try another opset=, or a newer "
                "PyTorch",
                exit_code=1,
            ) from error
    _require_opset(path, opset)


def _require_opset(path: Path, opset: int) -> None:
    """Refuse a file of another version: the exporter keeps its own if it cannot convert it."""
    import onnx

    written = next(each.version for each in onnx.load(path, load_external_data=False).opset_import if not each.domain)
    if written != opset:
        raise UserError(f"opset={opset}: PyTorch can write this model with opset={written} only: choose that")


def largest_difference(exact: Side, given: Input, path: Path) -> float:
    """Largest difference between outputs of onnxruntime and PyTorch, as a share of the output's largest value.

    Compared on the example, on its first sample alone, and on a larger batch: with one sample or length only, a file
    could have a fixed size.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(
            f"{path.name}: onnxruntime cannot run it ({_reason(error)}): choose a lower opset=, or update onnxruntime",
            exit_code=1,
        ) from error
    worst = 0.0
    for batch in _batches(given):
        results = session.run(list(exact.outputs), {given.name: batch.numpy()})
        with torch.no_grad():
            expected = exact(batch)
        for result, right in zip(results, expected, strict=True):
            if result.shape != tuple(right.shape):
                return float("inf")
            difference = (torch.from_numpy(result) - right).abs().max() / right.abs().max().clamp_min(1e-12)
            worst = max(worst, float("inf") if difference.isnan() else difference.item())
    return worst


def _batches(given: Input) -> list[Tensor]:
    more = torch.cat([given.example, given.example.flip(0)])
    shorter = [given.example[:, :-2]] if 1 in given.dynamic else []  # ends of the longest caption cut, as a test
    return [given.example, given.example[:1], more, *shorter]


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
