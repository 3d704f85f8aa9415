"""Imports point one way, and a system is found in exactly two places."""

import ast
from pathlib import Path

import pytest

from meru.files import PROJECT

FLOORS = [
    {
        *("lorentz", "poincare", "hyperbolic_functions", "distributed", "errors", "files", "keys", "overrides"),
        *("failures", "stopping", "optional_part", "encoders", "evaluation"),
    },
    {"layers", "losses", "data", "training"},
    {"models", "pretrained", "configuration"},
    {"command_line", "run_folder", "run_data", "discovery_figures", "evaluating", "finishing"},
    {"running", "discovery_run"},
]
FILES = sorted((PROJECT / "meru").rglob("*.py"))


def part(path_or_module):
    """`meru/data/datasets/cub.py` and `meru.data.datasets.cub` both belong to `data`."""
    names = Path(path_or_module).with_suffix("").parts if "/" in path_or_module else path_or_module.split(".")
    return names[1] if len(names) > 1 else None


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "meru":
            yield from [node.module] if node.module != "meru" else [f"meru.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("meru."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_import_points_upwards(path):
    own = part(str(path.relative_to(PROJECT)))
    if own == "__init__":
        return  # `meru.load`, the door to the house
    for module in imported(path):
        assert floor(part(module)) <= floor(own), f"{path.name} imports {module}"


def test_trainer_data_and_evaluation_know_no_model():
    for folder in ("training", "data", "evaluation", "encoders"):
        for path in (PROJECT / "meru" / folder).glob("*.py"):
            assert not any(module.startswith("meru.models") for module in imported(path)), path


def test_every_model_has_one_file_and_one_configuration():
    files = {path.stem for path in (PROJECT / "meru" / "models").glob("*.py")} - {"__init__"}
    configurations = {path.stem for path in (PROJECT / "configs" / "model").glob("*.yaml")}
    assert files == {name.removesuffix("_from_scratch") for name in configurations}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 360
