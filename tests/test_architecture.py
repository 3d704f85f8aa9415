"""Imports point one way, files and functions are short enough to read, and a system is found in exactly two places."""

import ast
from collections import defaultdict

import pytest

from meru.files import PROJECT

# From the ground up; a room may import rooms of its own floor and below. docs/design.md says what they are for.
FLOORS = [
    {"errors", "files", "run_layout"},
    {"cluster", "configuration", "failures", "geometry", "optional_part", "restarts"},
    {"command_line", "distributed", "heartbeat", "rendezvous", "sharing", "stopping"},
    {"encoders", "layers", "losses", "metrics"},
    {"data", "models", "reports", "training"},
    {"assemble"},
    {"sources"},
    {"evaluation"},
    {"tasks"},
    {"index", "runs"},
    {"benchmarks", "export", "gpu_check", "page"},
]
FILES = sorted((PROJECT / "meru").rglob("*.py"))
SCRIPTS = sorted((PROJECT / "scripts").glob("*.py"))


def room(path):
    """`meru/data/cub.py` is in the room `data`, `meru/errors.py` is one itself; `meru/__init__.py` is the door."""
    name = path.relative_to(PROJECT / "meru").with_suffix("").parts[0]
    return None if name == "__init__" else name


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(path):
    """Rooms, with the module, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "meru":
            modules = [node.module] if node.module != "meru" else [f"meru.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.startswith("meru.")]
        for module in modules:
            yield module.split(".")[1], module


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    assert {room(path) for path in FILES} - {None} == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_import_points_upwards(path):
    own = room(path)
    if own is None:
        return
    for name, module in imported(path):
        assert floor(name) <= floor(own), f"{path.name} imports {module}"


def test_no_two_rooms_import_each_other_by_any_way_round():
    arrows = defaultdict(set)
    for path in FILES:
        if own := room(path):
            arrows[own] |= {name for name, _ in imported(path)} - {own}

    def reached(start):
        found, waiting = set(), [start]
        while waiting:
            for name in arrows[waiting.pop()] - found:
                found.add(name)
                waiting.append(name)
        return found

    assert [name for name in arrows if name in reached(name)] == []


def test_trainer_data_and_evaluation_know_no_model():
    for name in ("training", "data", "evaluation", "encoders", "losses", "metrics"):
        for path in (PROJECT / "meru" / name).rglob("*.py"):
            assert not any(module.startswith("meru.models") for _, module in imported(path)), path


def test_losses_and_metrics_know_no_data():
    for name in ("losses", "metrics"):
        for path in (PROJECT / "meru" / name).rglob("*.py"):
            assert "data" not in {other for other, _ in imported(path)}, path


PARTS_OF_MODELS = {
    "__init__", "caption_hierarchy", "dual_encoder", "large_batches", "terms", "word_patch_interaction"
}  # fmt: skip


def test_every_model_has_one_file_and_one_configuration():
    files = {path.stem for path in (PROJECT / "meru" / "models").glob("*.py")} - PARTS_OF_MODELS
    configurations = {path.stem for path in (PROJECT / "configs" / "model").glob("*.yaml")}
    assert files == {name.removesuffix("_from_scratch") for name in configurations}


def test_models_inherit_from_models_at_most_twice_in_a_row():
    bases = {}
    for path in (PROJECT / "meru" / "models").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base) for base in node.bases]

    def depth(name):
        return max((1 + depth(base) for base in bases[name] if base in bases), default=0)

    assert depth("MERU") == 1 and depth("HyCoCLIP") == 2
    assert max(map(depth, bases)) == 2


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_file_and_no_function_is_too_long_to_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


def test_no_file_of_tests_is_too_long_to_read():
    long = {
        str(path.relative_to(PROJECT)): lines
        for path in (PROJECT / "tests").rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 350
    }
    assert long == {}
