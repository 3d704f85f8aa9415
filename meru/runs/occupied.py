"""What to say of a run folder that is not empty when a command would begin a new run in it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from meru.configuration.overrides import pasteable
from meru.configuration.saved import leaves, read_yaml
from meru.run_layout import CONFIG, FIGURES
from meru.runs.comparison import is_compared

_SHOWN = 3  # keys


def occupied(folder: Path, config: DictConfig) -> str:
    """One line on what the folder holds: no run, or a run, finished or not, of this configuration or another one.

    Args:
        folder: Not empty.
        config: Of the new run.
    """
    where = f"folder={folder}"
    if not (folder / CONFIG).is_file():
        return f"{where} is not empty, and holds no run: choose another"
    before = OmegaConf.to_container(read_yaml(folder / CONFIG), resolve=True)
    changed = differences(before, OmegaConf.to_container(config, resolve=True))
    listed = [f"{key}={old}, now {new}" for key, old, new in changed[:_SHOWN]] + ["…"] * (len(changed) > _SHOWN)
    of = f"of another configuration ({', '.join(listed)})" if changed else "of this command"
    go_on = pasteable("resume", folder)
    if (folder / FIGURES).is_file():
        return (
            f"{where} holds the finished run {of}; its figures are in {folder / FIGURES}: choose another folder for a "
            f"new run, or train this one longer with trainer.epochs=<more> {go_on}"
        )
    return f"{where} holds an unfinished run {of}: go on with {go_on}, or choose another folder for a new run"


def differences(before: dict, now: dict) -> list[tuple[str, object, object]]:
    """Keys with other values that count in a comparison of runs, and the seed: key, old and new value, by key."""
    old, new = dict(leaves(before)), dict(leaves(now))
    keys = (key for key in sorted(old.keys() | new.keys()) if key == "seed" or is_compared(key))
    pairs = ((key, old.get(key, "missing"), new.get(key, "missing")) for key in keys)
    return [pair for pair in pairs if pair[1] != pair[2]]
