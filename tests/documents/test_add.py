"""docs/add.md: every example is put into a copy of the project, where its tests and its commands are run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import COLOURS
from pages import EXAMPLES, commands
from table import PLAIN, SMALL_TOWERS

from examples import code, copy_of_project, examples
from meru.files import PROJECT

PAGE = EXAMPLES[0]
PYTEST = "import sys\n\nimport pytest\n\nsys.exit(pytest.main(sys.argv[1:]))\n"
TRAIN = ("trainer.epochs=1", "trainer.log_every=1", "data.batch_size=6", "data.workers=0", *SMALL_TOWERS, *PLAIN)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Path]:
    """The copy, in a folder of its own, which its runs would fill with weights if it were kept."""
    folder = copy_of_project(tmp_path_factory.mktemp("additions") / "project", PAGE)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def run_there(project):
    """Runs a command of the page in the copy, by a Python that has the copy's package at hand."""
    (project / "tests").mkdir(exist_ok=True)
    copied = project / "tests" / "warm_python.py"
    copied.write_bytes((PROJECT / "tests" / "warm_python.py").read_bytes())
    spec = importlib.util.spec_from_file_location("warm_python_there", copied)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.warm_environment() as prefix:

        def run(command: str, *more: str) -> str:
            words = [str(prefix / "bin" / "python") if word == "python" else word for word in shlex.split(command)]
            words = ["env", "OMP_NUM_THREADS=1", *words, *more]
            done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
            return done.stdout + done.stderr

        yield run


@pytest.fixture(scope="module")
def mushrooms(project, cub_folder) -> Path:
    """A table of the tests' pictures, with the columns that the page shows."""
    (header,) = {example.text.splitlines()[0] for example in examples(PAGE) if example.language == "csv"}
    folder = project / "data" / "mushrooms"
    folder.mkdir(parents=True)
    lines = [header]
    for number, file in enumerate(sorted(cub_folder.rglob("*.jpg"))):
        colour = next(colour for colour in COLOURS if colour in file.name.lower())
        split = ("train", "train", "validation", "train", "train", "test")[number % 6]
        lines.append(f"{file},{split},{colour} cap,a mushroom with a {colour} cap,cap 20 20")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder


def command(*words: str) -> str:
    """The command of the page that has these words."""
    (found,) = {each for each in commands(PAGE) if all(word in each for word in words)}
    return found


def last_logged(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


def test_both_languages_show_the_same_code():
    for pattern in (r" +#.*", r'"""[^"]*"""'):  # comments may be translated
        shown = [[re.sub(pattern, "", block) for block in code(page)] for page in EXAMPLES]
        assert shown[0] == shown[1]
    first, second = (examples(page) for page in EXAMPLES)
    assert first == second


def test_the_tests_of_the_examples_pass(run_there, project):
    tests = [each.split()[2] for each in commands(PAGE) if each.startswith("bash scripts/test.sh")]
    assert sorted(tests) == sorted(example.path for example in examples(PAGE) if example.path.startswith("tests/"))
    (project / "scripts" / "run_pytest.py").write_text(PYTEST)  # among the scripts, so that its imports are done
    assert "10 passed" in run_there("python scripts/run_pytest.py", "-q", "-p", "no:cacheprovider", *tests)


def test_ruff_finds_nothing_in_the_examples(project):
    files = [example.path for example in examples(PAGE) if example.path.endswith(".py")]
    words = [sys.executable, "-m", "ruff", "check", "--no-cache", f"--config={PROJECT / 'pyproject.toml'}", *files]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_new_keys_are_on_the_page_of_keys(run_there, project):
    (project / "docs").mkdir()
    run_there(command("document_keys"))
    page = (project / "docs" / "keys.md").read_text(encoding="utf-8")
    for key in ("loss.uniformity.weight", "loss.uniformity.temperature", "model.logit_bias"):
        assert f"| `{key}` |" in page
    assert "squared_euclidean" in page and "modality_gap" in page


def test_a_term_and_an_evaluation(run_there, project, mushrooms):
    table = ("data=mushrooms", f"data.root={mushrooms}", "folder=spread")
    run_there(command("loss.uniformity.weight"), *TRAIN, *table)
    assert last_logged(project / "spread")["loss/uniformity"] < 4
    printed = run_there(command("suite=modality_gap").replace("<run folder>", "spread"), "workers=0")
    assert "images to captions" in printed
    figures = json.loads((project / "spread" / "modality_gap.json").read_text())
    assert set(figures) == {"gap/distance", "gap/image_spread", "gap/text_spread"}
    assert (project / "spread" / "modality_gap.png").exists()


def test_a_data_set(run_there, project, mushrooms):
    printed = run_there(command("data=mushrooms"), *TRAIN, "folder=mushrooms")
    assert "12 training, 3 validation and 3 test images of 3 classes" in printed
    assert "zero_shot/accuracy@1" in json.loads((project / "mushrooms" / "test.json").read_text())


def test_a_model(run_there, project, mushrooms):
    run_there(command("model=siglip"), *TRAIN, "data=mushrooms", "folder=siglip")
    assert last_logged(project / "siglip")["logit_bias"] == pytest.approx(-10, abs=0.1)


def test_a_space(run_there, project, mushrooms):
    run_there(command("model.space=squared_euclidean"), *TRAIN, "data=mushrooms", "folder=space")
    assert "  space: squared_euclidean" in (project / "space" / "config.yaml").read_text()
    assert (project / "space" / "test.json").exists()


def test_a_package_of_ones_own(run_there, project, mushrooms):
    run_there(command("mine.Near"), *TRAIN, "data=mushrooms", "folder=mine")
    assert last_logged(project / "mine")["loss/near_origin"] > 0
