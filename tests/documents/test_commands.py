"""The commands and the Python of every document, run as they stand there, only on less data and with smaller towers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pages import EXAMPLES, FILE, FOLDER, RUN, blocks, documents, every_command, places
from table import FEW_BIRDS, FIRST_COMMAND, QUICK, ROWS, Row, row_of

from meru.configuration import check
from meru.configuration.overrides import readable, typed_keys
from meru.files import PROJECT
from meru.index.building import Wanted, build_index

# A Python that has everything and says how it was called.
ECHO = '#!/bin/sh\ncase $1 in *check_environment.py) ;; *) printf "%s\\n" "$@" ;; esac\n'


def execute(words: list[str], *, here: Path, python: Path, exit_code: int = 0) -> tuple[str, str]:
    """Run a command of a document from another directory, by that Python of a virtual environment: what it prints."""
    script = next(place for place, word in enumerate(words) if (PROJECT / word).is_file())
    words = [*words[:script], str(PROJECT / words[script]), *words[script + 1 :]]
    words[0] = str(python) if words[0] == "python" else words[0]
    environment = {
        **os.environ, "VIRTUAL_ENV": str(python.parent.parent), "OMP_NUM_THREADS": "1", "NGPU": "0",
    }  # fmt: skip
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == exit_code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def run_and_birds(tmp_path_factory) -> tuple[Path, Path]:
    """The first command of the README, on four pictures a species; the run folder and the pictures."""
    folder = tmp_path_factory.mktemp("documents")
    run, birds = folder / "run", folder / "birds"
    more = [word.format(birds=birds) for word in (*QUICK, *FEW_BIRDS)]
    words = [*shlex.split(FIRST_COMMAND), *more, f"folder={run}"]
    output, _ = execute(words, here=folder, python=Path(sys.executable))
    assert "test split" in output and str(run) in output
    assert (run / "test.json").exists()
    return run, birds


@pytest.fixture(scope="module")
def index_of_birds(run_and_birds, tmp_path_factory) -> Path:
    """An index of the pictures of that run, made in this process."""
    run, birds = run_and_birds
    folder = tmp_path_factory.mktemp("index") / "index"
    build_index(Wanted(str(run), str(birds / "images"), output=str(folder), workers=0))
    return folder


@pytest.fixture
def fill(request, tmp_path) -> Callable[[str], str]:
    """Puts the tests' own folders and files in place of {run}, {here} and the other names of table.py."""

    def place(name: str) -> Path:
        if name == "here":
            return tmp_path
        if fixture := {"cub": "cub_folder", "persons": "person_folder", "index": "index_of_birds"}.get(name):
            return request.getfixturevalue(fixture)
        if name == "queries":
            (tmp_path / "queries.txt").write_text("a red bird\na blue bird\n")
            return tmp_path / "queries.txt"
        run, birds = request.getfixturevalue("run_and_birds")
        return {"run": run, "birds": birds, "picture": next((birds / "images").rglob("*.jpg"))}[name]

    return lambda text: re.sub(r"\{(\w+)\}", lambda name: str(place(name[1])), text)


@pytest.mark.parametrize("command", every_command())
def test_command(command, fill, compose, tmp_path, request):
    row = row_of(command)
    if row is None:
        pytest.fail(f"{', '.join(places(command))}: no test tries {command!r}: add a row to tests/documents/table.py")
    if row.done:
        request.getfixturevalue("run_and_birds")
    elif row.composed is not None:
        of = "evaluate" if "evaluate.py" in command else "train"
        for overrides in trained_with(command, tmp_path):
            compose_and_check([*row.composed, *overrides], compose, of=of)
    else:
        try_small(command, row, fill, tmp_path, python=request.getfixturevalue("warm_python"))


def try_small(command: str, row: Row, fill: Callable[[str], str], here: Path, *, python: Path) -> None:
    """Run a command with the changes of its row, and look at what it leaves."""
    for pattern, instead in ((RUN, "{run}"), *row.change):
        command = re.sub(pattern, instead, command)
    words = [fill(word) for word in (*shlex.split(command), *row.add)]
    output = execute(words, here=here, python=python, exit_code=row.exit_code)
    assert row.says in "".join(output)
    assert not row.makes or list(here.glob(row.makes))


def trained_with(command: str, here: Path) -> list[list[str]]:
    """The overrides with which `scripts/train.py` would be started, once for each variant of an ablation."""
    python = here / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(ECHO)
    python.chmod(0o755)
    words = shlex.split(command.replace(FILE, "weights").replace(FOLDER, "folder").replace(RUN, "run"))
    words = words[1:] if words[0].startswith("NGPU=") else words
    asked, _ = execute(words, here=here, python=python)
    overrides = [word for word in asked.splitlines() if "=" in word and not word.startswith("-")]
    if "-m" in words:  # of several values the first
        overrides = [re.sub(r"^(\w+=[^,\[]+),.*", r"\1", word) for word in overrides]
    if words[1] != "scripts/ablate.py":
        return [overrides]
    of_script = ("experiment", "ablation", "seeds", "jobs", "output", "tune")
    own = {key: value for key, _, value in (word.partition("=") for word in overrides) if key in of_script}
    assert re.fullmatch(r"\d+(,\d+)*", own.get("seeds", "0"))
    name = own.get("ablation") or own["experiment"].rpartition("_")[2]
    ablation = yaml.safe_load((PROJECT / "configs" / "ablation" / f"{name}.yaml").read_text(encoding="utf-8"))
    experiment = own.get("experiment") or ablation["experiment"]
    shared = [f"experiment={experiment}", *ablation.get("overrides", [])]
    shared += [word for word in overrides if word.partition("=")[0] not in of_script]
    starts = [ablation["start"]["overrides"]] if "start" in ablation else []
    return [[*shared, *changes] for changes in (*starts, *ablation["variants"].values())]


def compose_and_check(overrides: list[str], compose: Callable, *, of: str) -> None:
    """What the script itself does before it makes anything."""
    overrides = readable(overrides, command=of)
    check(compose(*overrides, name=of, resolve=False), command=of, typed=typed_keys(overrides))


def test_every_row_has_a_command():
    used = {row_of(command) for command in every_command()}
    assert [row.form for row in ROWS if row not in used] == []


@pytest.mark.parametrize("document", [name for name in documents() if blocks(name, "python") and name not in EXAMPLES])
def test_python(document, fill, capsys):
    for block in blocks(document, "python"):
        exec(fill(block.replace("bird.jpg", "{picture}").replace(RUN, "{run}").replace("<index>", "{index}")), {})
    assert "tensor" in capsys.readouterr().out


def test_python_finds_the_package_beside_a_clone_of_its_name(tmp_path):
    (tmp_path / "meru").mkdir()
    command = [sys.executable, "-c", "import meru; print(meru.load)"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "function load" in found.stdout, found.stderr
