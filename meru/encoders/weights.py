"""Weights from files: read without running code from them, matched by name, checked against the module."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from meru.encoders.inert_pickle import DangerousFileError, StandIn, module_weights, read_inertly
from meru.encoders.sizes import with_resampled_positions
from meru.encoders.weight_files import shards, warn_of_damage, weight_file
from meru.errors import UserError
from meru.files import user_path
from meru.run_layout import MODEL

log = logging.getLogger("meru")

CHECKSUM = "blake2b"  # metadata key in this project's safetensors files

# Keys under which trainers store weights; the first match is used: averages and teachers are better towers.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher")
_WRAPPERS = (
    *_AVERAGES,
    *("state_dict", "model_state_dict", "model", "model_state", "student", "params", "net", "network", "weights"),
    *("module", "backbone", "encoder"),
)
# Parts that only training needs: surplus weights under these names are acceptable.
_HEAD = re.compile(r"((.+_)?(head|heads|fc|classifier|projector|predictor|prototypes|logits)|mask_token|decoder_.+)\d*")


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress logging inside: hub clients report every retry, and one line at the end is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def read_weights(path: str | Path, *, what: str) -> dict[str, Tensor]:
    """The state dict in a safetensors file, a PyTorch checkpoint or a TorchScript archive; no code from it is run.

    Args:
        path: The file, or a folder with one. A checkpoint may hold the weights directly, under a usual key (`model`,
            `state_dict`, `teacher`, …; an average of the weights before the weights themselves), or as a whole model.
        what: The config key or argument that named the file, for messages.

    Raises:
        UserError: if the file is missing, truncated, of an unsupported kind, or holds no weights.
    """
    path, kind = weight_file(user_path(path), what=what)
    if kind == "index":
        parts = [read_weights(shard, what=what) for shard in shards(path, what=what)]
        return {name: tensor for part in parts for name, tensor in part.items()}
    try:
        if kind == "safetensors":
            return _read_safetensors(path)
        content = _read_torch(path, inert=kind == "torchscript")
    except DangerousFileError as error:
        raise UserError(
            f"{what}: {path} would call {error} when it is loaded, which weights never need: do not trust it; "
            "ask for a file that holds only tensors"
        ) from error
    except MemoryError as error:
        raise UserError(f"{what}: not enough memory to read {path}", exit_code=1) from error
    except Exception as error:  # libraries raise many types for a broken file
        raise UserError(f"{what}: {path} is truncated or not a weight file ({short(error)})") from error
    return _state_dict(content, path, what=what)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = (file.metadata() or {}).get(CHECKSUM)
    if expected is not None and expected != checksum(weights):
        raise ValueError("its checksum does not match")
    return weights


def checksum(weights: dict[str, Tensor]) -> str:
    """Checksum of names, dtypes, shapes and bytes of CPU tensors, as stored in this project's safetensors files."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def _read_torch(path: Path, *, inert: bool) -> object:
    """The content of a file of `torch.save`.

    PyTorch's own reader refuses all but tensors, numbers and containers. `read_inertly`, which runs no code and keeps
    the tensors, is used for files that it refuses and for TorchScript, whose loader runs code from the archive.
    """
    if not inert:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about newer pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=True)
            warn_of_damage(path)
            return content
        except Exception as error:  # UnpicklingError, or others caused by an unknown class
            first = error
    try:
        return read_inertly(path)
    except DangerousFileError:
        raise
    except Exception as error:
        raise error if inert or isinstance(first, UnpicklingError) else first from error


def _state_dict(content: object, path: Path, *, what: str) -> dict[str, Tensor]:
    """The tensors by name; if a checkpoint has several parts, the chosen one is logged."""
    taken: list[str] = []
    while not (tensors := _tensors(content)):
        parts = content if isinstance(content, dict) and not isinstance(content, StandIn) else {}
        holders = [key for key in parts if isinstance(key, str) and _holds_tensors(parts[key])]
        usual = [key for key in _WRAPPERS if key in holders]
        if not usual and len(holders) != 1:
            several = f"; it holds {', '.join(holders[:6])}: save only one of them" if holders else ""
            raise UserError(
                f"{what}: {path} holds no state dict{several} (torch.save(model.state_dict(), file) writes one)"
            )
        taken.append((usual or holders)[0])
        content = parts[taken[-1]]
    if taken and (len(usual) > 1 or taken[-1] not in ("model", "state_dict")):
        log.info("%s: took %s of %s", what, ".".join(taken), path.name)
    return tensors


def _tensors(content: object) -> dict[str, Tensor]:
    if isinstance(content, StandIn):
        return module_weights(content) or _tensors(dict(content))
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _holds_tensors(content: object, depth: int = 3) -> bool:
    if _tensors(content):
        return True
    return (
        depth > 0
        and isinstance(content, dict)
        and any(_holds_tensors(part, depth - 1) for key, part in content.items() if key in _WRAPPERS)
    )


def load_weights(
    module: nn.Module, path: str | Path, *, what: str, surplus: Sequence[str] | None = None, resample: bool = False
) -> None:
    """Load a file into a module; its names may have a prefix such as `module.` or `backbone.`.

    Args:
        module: Left unchanged if an error is raised.
        path: As in `read_weights`.
        what: As in `read_weights`.
        surplus, resample: As in `fit`.

    Raises:
        UserError: as `read_weights` and `fit`.
    """
    weights = read_weights(path, what=what)
    fit(module, weights, source=str(path), what=what, surplus=surplus, finite=True, resample=resample)


def fit(
    module: nn.Module,
    weights: dict[str, Tensor],
    *,
    source: str,
    what: str,
    surplus: Sequence[str] | None = None,
    finite: bool = False,
    resample: bool = False,
) -> None:
    """Load a complete state dict: every weight of the module must be found, with its shape.

    Args:
        module: Receives the weights in its own dtype.
        weights: By name; the prefix under which most of the module's names are found is removed.
        source: Origin of the weights, for messages.
        what: The config key or argument that named it, for messages.
        surplus: If the module is part of a model, its file may hold other weights: those under these names, other
            heads, and those outside the prefix are left out, and one line says so. None: nothing may be left out.
        finite: Refuse values that are not finite if the module's own are finite.
        resample: Resample position embeddings of square images of another size, see `with_resampled_positions`.

    Raises:
        UserError: if a name is missing or left over, shapes differ, or values are not finite; it names the first one.
    """
    own = module.state_dict()
    _refuse_updates(own, weights, source=source, what=what)
    prefix, found = _behind_best_prefix(own, weights)
    if resample:
        found = with_resampled_positions(module, found, what=what)
    behind = f" under the prefix {prefix}" if prefix else ""
    missing = [name for name in own if name not in found and not _counts_only(name)]
    if missing and not own.keys() & found.keys():
        transformers = any("encoder.layer" in name for name in weights)
        hint = ", as in Hugging Face's transformers" if transformers else ""
        raise UserError(
            f"{what}: {source} is of another architecture: it lacks {missing[0]} and all other names; "
            f"its own names begin with {next(iter(weights))}{hint}"
        )
    left = [name for name in found if name not in own and not _counts_only(name)]
    heads = [name for name in left if surplus is not None and _is_head(name, surplus)]
    outside = [] if prefix == "" else [name for name in weights if not name.startswith(prefix)]
    unexpected = [name for name in left if name not in heads] + (outside if surplus is None else [])
    for names, how in ((missing, "lacks"), (unexpected, "also holds")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{what}: {source} is of another architecture:{behind} it {how} {names[0]}{more}")
    chosen = {name: found[name] if name in found else own[name] for name in own}
    for name, ours in own.items():
        if chosen[name].numel() == ours.numel() == 1:
            chosen[name] = chosen[name].reshape(ours.shape)
        _check(name, chosen[name], ours, source=source, what=what, finite=finite)
    module.load_state_dict(chosen)
    if prefix or heads or outside:
        dropped = sorted({name.split(".")[0] for name in (*heads, *outside)})
        taken = f"weights under {prefix}" if prefix else "weights"
        log.info("%s: %s loaded%s", what, taken, f"; left out: {', '.join(dropped)}" if dropped else "")


def _refuse_updates(own: dict[str, Tensor], weights: dict[str, Tensor], *, source: str, what: str) -> None:
    """Refuse weights of a tower with low-rank updates for one without, which would need their sum."""
    held, wanted = (any(".parametrizations." in name for name in names) for names in (weights, own))
    if held and not wanted:
        raise UserError(
            f"{what}: {source} holds LoRA updates apart from the weights: give the finished run's folder, or the "
            f"{MODEL} in it, which has both added up"
        )


def _behind_best_prefix(own: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The prefix under which most of the module's names are found, and the weights under it, with the prefix removed.

    Ties are resolved in favour of no prefix, then a teacher's, then the first in the file.
    """
    counts = Counter({"": 0})
    for name in weights:
        steps = [0, *(match.end() for match in re.finditer(r"\.", name))]
        counts.update(name[:step] for step in steps if name[step:] in own)
    prefix = max(counts, key=lambda each: (counts[each], each == "", "teacher" in each))
    return prefix, {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def _is_head(name: str, surplus: Sequence[str]) -> bool:
    named = any(name == each or name.startswith(f"{each}.") for each in surplus)
    return named or _HEAD.fullmatch(name.split(".")[0]) is not None


def _counts_only(name: str) -> bool:
    """Whether a name is a batch norm's counter of batches, which files from before 2018 lack."""
    return name.endswith("num_batches_tracked")


def _check(name: str, theirs: Tensor, ours: Tensor, *, source: str, what: str, finite: bool) -> None:
    if theirs.shape != ours.shape:
        raise UserError(
            f"{what}: {source} is of another architecture: its {name} has shape "
            f"{tuple(theirs.shape)} instead of {tuple(ours.shape)}"
        )
    if ours.is_floating_point() and not theirs.is_floating_point():
        raise UserError(f"{what}: {source} holds {name} as {theirs.dtype}: use a file that is not quantized")
    if finite and ours.is_floating_point() and not theirs.isfinite().all() and ours.isfinite().all():
        number = int((~theirs.isfinite()).sum())
        raise UserError(
            f"{what}: {source} holds {number} values of {name} that are not finite: it is damaged, or its training "
            "failed; use another file"
        )


def short(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def first_cause(error: BaseException) -> str:
    """The root cause of an error on one line: hub clients wrap the network's or the disk's errors several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return short(error)
