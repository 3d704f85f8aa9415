"""Every recipe composes to the configuration in recipes/<name>.yaml, and so does train.yaml with each model and data.

Interpolations stay as they are written. Of the project's own targets only the name is compared, `meru…CLIP`: a class
may move to another module.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest
from conftest import composed
from omegaconf import OmegaConf

PINS = Path(__file__).with_name("recipes")
CONFIGS = Path(__file__).parents[2] / "configs"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))


# Name of the file of a pin → the word of the command line.
RECIPES = {
    "train": None,
    **{f"{group}_{name}": f"{group}={name}" for group in ("model", "data", "encoder") for name in names(group)},
    **{name: f"experiment={name}" for name in names("experiment")},
}


def text_of(word: str | None) -> str:
    """The composed configuration as YAML."""
    config = composed(*[word] if word else [], resolve=False)
    return re.sub(r"(?<=_target_: )meru\.\S+\.(?=\w+$)", "meru…", OmegaConf.to_yaml(config), flags=re.MULTILINE)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_composes_as_pinned(name):
    pinned = (PINS / f"{name}.yaml").read_text(encoding="utf-8")
    composed_now = text_of(RECIPES[name])
    lines = difflib.unified_diff(pinned.splitlines(), composed_now.splitlines(), "pinned", "composed", lineterm="", n=1)
    assert composed_now == pinned, "\n".join(lines)


def test_no_pin_is_of_a_recipe_that_is_gone():
    assert {path.stem for path in PINS.iterdir()} == RECIPES.keys()


def rewrite() -> None:
    """Pin the present configurations."""
    PINS.mkdir(exist_ok=True)
    for path in PINS.iterdir():
        path.unlink()
    for name, word in RECIPES.items():
        (PINS / f"{name}.yaml").write_text(text_of(word), encoding="utf-8", newline="\n")
