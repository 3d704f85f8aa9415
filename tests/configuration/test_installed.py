"""The wheel brings configs/ and two commands, which work in an empty folder."""

import os
import subprocess
import sys
import zipfile

import pytest

from meru.files import PROJECT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which a wheel of the checkout was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"  # setuptools writes beside what it builds
    copy.mkdir()
    for name in ("meru", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        (copy / name).symlink_to(PROJECT / name)
    command = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-q", "-w", folder], check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("meru_hyperbolic-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "packages")
    return folder / "packages"


def test_the_wheel_has_all_of_the_package_and_configs(installed):
    for folder, place in (("meru", "meru"), ("configs", "meru/configs")):
        files = {path.relative_to(PROJECT / folder) for path in (PROJECT / folder).rglob("*") if path.is_file()}
        endings = (".py", ".yaml", ".json", ".typed", ".html", ".css", ".js", ".svg")
        own = {path for path in files if path.suffix in endings}
        assert own and not [path for path in own if not (installed / place / path).is_file()]
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "meru-train = meru.runs.commands:train" in entry_points.read_text()
    assert "meru-evaluate = meru.runs.commands:evaluate" in entry_points.read_text()


@pytest.mark.parametrize(
    ("command", "words", "code", "message"),
    [
        ("train", ["--cfg", "job", "experiment=birds_meru"], 0, "learning_rate: 0.002"),
        ("train", ["trainer.epoch=3"], 2, "error: trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("train", ["model=simgcd", "+model.nonsense=1"], 2, "error: model.nonsense: no such key"),
        ("evaluate", ["run=nowhere"], 2, "nowhere is not a run folder: "),
    ],
)
def test_the_commands_work_in_an_empty_folder(command, words, code, message, installed, tmp_path):
    lines = f"import sys; from meru.runs.commands import {command}; sys.exit({command}())"
    done = subprocess.run(
        [sys.executable, "-c", lines, *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code and message in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_data_lie_in_the_working_directory_and_no_commit_is_guessed(installed, tmp_path):
    lines = "from meru.files import CHECKOUT, CONFIGS, PROJECT; print(CHECKOUT, CONFIGS, PROJECT)"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["None", str(installed / "meru" / "configs"), str(tmp_path)]


def test_a_run_finds_its_data_from_wherever_it_is_evaluated(installed, tmp_path):
    lines = """
import os
from pathlib import Path
from omegaconf import OmegaConf
from meru.configuration.composing import compose
from meru.configuration.saved import read_config, save_config
config, _ = compose(["experiment=birds_meru"])
Path("run").mkdir()
save_config(Path("run"), config)
os.chdir("run")
OmegaConf.register_new_resolver("project", lambda path: str(Path.cwd() / path), replace=True)
print(read_config(Path.cwd()).data.load.root)
"""
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "data" / "birds"), done.stderr
