"""Files of a run folder, written so that a crash at any moment leaves the old file or the new one, never half.

    config.yaml         the run's resolved configuration
    metrics.jsonl       one line a logged step and one a validation
    last.pt             everything needed to go on: model, optimizer, average, best figure, step, random states
    best.safetensors    weights of the best validation so far
    model.safetensors   the finished model (see `meru.load`)
    test.json           its figures on the test split
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from meru import distributed
from meru.errors import UserError
from meru.files import write_atomically, write_text
from meru.overrides import pasteable

FORMAT = 1


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint of tensors, numbers, strings and containers of them."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file), advice=_go_on(path))


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint with `weights_only=True`: no code in it is run.

    Raises:
        UserError: if it is truncated, foreign, or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError for a broken file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"resume: {path} is truncated or no checkpoint ({reason}); remove it to start this run over, "
            "or restore a copy"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"resume: {path} is no checkpoint of this version (format {FORMAT})")
    return state


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors."""
    from safetensors.torch import save

    # safetensors refuses tensors that share or skip memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(path, lambda file: file.write(save(plain)), advice=_go_on(path))


def _go_on(path: Path) -> str:
    return f"make room and go on with {pasteable('resume', path.parent)}"


def random_states() -> list[dict[str, Tensor]]:
    """States of every process's random generators, by rank; call it in every process."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return distributed.collect(own)


def restore_random_states(states: list[dict[str, Tensor]]) -> None:
    """Give this process its generators' states back, if it was there when they were saved."""
    if distributed.rank() < len(states):
        own = states[distributed.rank()]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"])


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, each with its `step`.

    Args:
        path: The file; created if missing.
        step: Lines of later steps are dropped: a resumed run writes them again.
    """

    def __init__(self, path: Path, *, step: int):
        self.path = path
        if path.exists():
            kept = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= step]
            write_text(path, "".join(f"{line}\n" for line in kept), advice=_go_on(path))

    def write(self, figures: dict) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def _step_of(line: str) -> float:
    """The step of a line; infinite for a line that a killed process wrote half."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
