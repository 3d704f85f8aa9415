"""Files of a run folder, written atomically: after a crash, a file is either the old or the new one.

Damage is detected on reading: the zip archive of a checkpoint has a checksum of each tensor, and safetensors files have
one in their metadata. `meru.run_layout` defines the file names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from meru import distributed
from meru.configuration.overrides import pasteable
from meru.encoders.weights import CHECKSUM, checksum
from meru.errors import UserError
from meru.files import os_error_message, write_atomically, write_text

FORMAT = 1
# The entries of a checkpoint of any version.
STATE = {"step": int, "best": dict, "model": dict, "optimizer": dict, "random_states": list}


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint of tensors, numbers, strings and containers of them."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file), advice=_go_on(path))


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint with `weights_only=True`, so that no code in it runs.

    Raises:
        UserError: if it is damaged, not a checkpoint, or of another version.
    """
    try:
        with ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise BadZipFile(f"the checksum of {bad} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError for a broken file
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"resume: {os_error_message(error)}", exit_code=1) from None
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"resume: {path} is damaged or not a checkpoint ({reason}); remove it to start this run over, "
            "or restore a copy"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"resume: {path} is not a checkpoint of this version (format {FORMAT})")
    for name, kind in STATE.items():
        if not isinstance(state.get(name), kind):
            raise UserError(f"resume: {path} is incomplete (no {name}); remove it to start this run over")
    return state


def shared_checkpoint(path: Path) -> dict | None:
    """The main process's checkpoint in every process, even where its folder cannot be seen; None if there is none."""
    facts = distributed.collect((path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None)
    if facts[0] is None:
        return None
    if len(set(facts)) == 1:
        return load_checkpoint(path)
    read: list[dict] = []
    distributed.decided_by_main(lambda: read.append(load_checkpoint(path)))
    return distributed.broadcast_large(read[0] if read else None)


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, with a checksum of the tensors that `read_weights` verifies."""
    from safetensors.torch import save

    # safetensors refuses tensors that share or skip memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    content = save(plain, metadata={CHECKSUM: checksum(plain)})
    write_atomically(path, lambda file: file.write(content), advice=_go_on(path))


def _go_on(path: Path) -> str:
    return f"make room and go on with {pasteable('resume', path.parent)}"


def random_states() -> list[dict[str, Tensor]]:
    """Collect the states of all processes' random generators, by rank; call this in every process."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return distributed.collect(own)


def restore_random_states(states: list[dict[str, Tensor]], *, alike: bool) -> None:
    """Restore the states of this process's random generators.

    Args:
        states: By rank, as they were saved.
        alike: Whether all processes draw the same numbers; if so, all of them get the first process's states.
    """
    rank = 0 if alike else distributed.rank()
    if rank < len(states):
        own = states[rank]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"])


class MetricsFile:
    """The file `metrics.jsonl`: one JSON object per line, each with its `step`.

    Args:
        path: The file; created if missing.
        step: Lines of later steps are dropped, because a resumed run writes them again.

    Raises:
        UserError: if the file contains anything else. An incomplete last line from a killed process is dropped.
    """

    def __init__(self, path: Path, *, step: int):
        self.path = path
        if path.exists():
            kept = [line for line, of_step in _steps(path) if of_step <= step]
            write_text(path, "".join(f"{line}\n" for line in kept), advice=_go_on(path))

    def write(self, figures: dict) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def _steps(path: Path) -> Iterator[tuple[str, float]]:
    """The lines of a metrics file, and the step of each."""
    try:
        *lines, last = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: remove it, or restore a copy, to resume this run") from None
    if last and not last.startswith("{"):
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        try:
            yield line, json.loads(line)["step"] + 0
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{path}, line {number} has no figures of a step: remove the line, or restore a copy of the file"
            ) from None
