"""The examples of docs/add.md, put into a copy of the package: they keep its rules, their tests pass, commands run."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import EXAMPLES, commands, files
from running import execute, try_small
from table import EXAMPLE_ROWS, EXAMPLE_RUN, row_of

from meru.files import PROJECT

PAGE = EXAMPLES[0]
COPIED = ("meru", "configs", "scripts", "docs", *(f"tests/{name}.py" for name in ("warm_python", "test_architecture")))


def changed(text: str, changes: str) -> str:
    """A text with the changes of a diff block: hunks between `@@`, whose old lines stand once in the text."""
    for hunk in re.split(r"^@@\n", changes, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] != sign) for sign in "+-")
        assert text.count(old) == 1, f"{text.count(old)} times in the file:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all examples in it."""
    root = tmp_path_factory.mktemp("examples")
    for name in COPIED:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy(PROJECT / name, root / name)
    for name, language, text in files(PAGE):
        path = root / name
        if language == "diff":
            path.write_text(changed(path.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            assert not path.exists(), path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    shutil.copy(PROJECT / "pyproject.toml", root)
    return root


@pytest.fixture(scope="module")
def python(project: Path) -> Iterator[Path]:
    """A Python for the scripts of the copy that starts at once."""
    spec = importlib.util.spec_from_file_location("warm_python_of_the_copy", project / "tests" / "warm_python.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.warm_environment() as prefix:
        yield prefix / "bin" / "python"


@pytest.fixture(scope="module")
def run(project: Path, python: Path, cub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the first example's command."""
    here = tmp_path_factory.mktemp("example")
    words = [*shlex.split(commands_of_examples()[0]), *EXAMPLE_RUN, "data=cub", f"data.root={cub_folder}"]
    execute([*words, f"folder={here / 'run'}"], here=here, python=python, project=project)
    assert (here / "run" / "test.json").is_file()
    return here / "run"


@pytest.fixture
def listed(cub_folder: Path, tmp_path: Path) -> Path:
    """The images of `cub_folder` listed in a table, as `load_listed` reads it."""
    folder = tmp_path / "listed"
    folder.mkdir()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "class", "split", "caption"])
        for name in sorted(path.name for path in (cub_folder / "images").iterdir()):
            for number, image in enumerate(sorted((cub_folder / "images" / name).iterdir())):
                split = ("train", "train", "train", "validation", "test", "test")[number]
                table.writerow([image, name[4:], split, f"a flower, number {number}"])
    return folder


@pytest.fixture
def fill(request: pytest.FixtureRequest, cub_folder: Path, tmp_path: Path) -> Callable[[str], str]:
    """Puts the tests' own folders in place of {run}, {listed}, {cub} and {here}."""
    known = {"here": tmp_path, "cub": cub_folder}
    return lambda text: re.sub(
        r"\{(\w+)\}", lambda name: str(known.get(name[1]) or request.getfixturevalue(name[1])), text
    )


def commands_of_examples() -> list[str]:
    return list(dict.fromkeys(commands(PAGE)))


@pytest.mark.parametrize("command", commands_of_examples())
def test_command_of_an_example(command, project, python, fill, tmp_path, request):
    row = row_of(command, EXAMPLE_ROWS)
    if row is None:
        pytest.fail(f"{PAGE}: no test tries {command!r}: add a row to EXAMPLE_ROWS in tests/documents/table.py")
    if row.done:
        request.getfixturevalue("run")
    else:
        try_small(command, row, fill, tmp_path, python=python, project=project)


def test_examples_pass_their_own_tests_and_those_of_the_architecture(project):
    own = [name for name, _, _ in files(PAGE) if name.startswith("tests/")]
    assert len(own) == 5
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_architecture.py", *own]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_examples_pass_the_linter(project):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "meru", "tests"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_both_languages_have_the_same_examples():
    first, second = ((files(name), commands(name)) for name in EXAMPLES)
    assert first == second
