"""Where the commands run: environments found, made and kept; what check_environment.py asks; the pins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stub_checkout import BASH, PROJECT, STUB, Checkout, write_executable


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_first_run_installs_into_venv_and_second_installs_nothing(checkout):
    first = checkout.run("train_cub.sh", "meru")
    assert first.returncode == 0
    assert "minutes" in first.stderr and "PyTorch" in first.stderr
    (install,) = checkout.calls("|-m|pip|install|")
    assert install.startswith(f"{checkout.venv}/bin/python|")
    assert install.endswith(f"|-c|{checkout.root}/constraints.txt|-e|{checkout.root}[test]|")
    assert not checkout.calls("the lock is still held")
    second = checkout.run("scripts/test.sh")
    assert second.returncode == 0
    assert checkout.installs() == 1 and len(checkout.calls("|-m|venv|")) == 1
    assert second.stderr == ""
    assert checkout.training()[0] == f"{checkout.venv}/bin/python"


def test_new_requirements_are_installed_into_the_same_venv(checkout):
    checkout.run("scripts/test.sh")
    with (checkout.root / "constraints.txt").open("a") as constraints:
        constraints.write("# changed\n")
    assert "up to date" in checkout.run("scripts/test.sh").stderr
    assert checkout.installs() == 2 and len(checkout.calls("|-m|venv|")) == 1


def test_failed_install_is_shown_and_done_again_from_the_start(checkout):
    failed = checkout.run("train_cub.sh", "meru", PIP_ERROR="no such mirror")
    assert failed.returncode == 1
    assert "ERROR: no such mirror" in failed.stderr and "WARNING" not in failed.stderr
    assert str(checkout.venv / "install.log") in failed.stderr
    assert not checkout.calls("train.py")
    (checkout.venv / "left over").touch()
    assert checkout.run("train_cub.sh", "meru").returncode == 0
    assert checkout.installs() == 2 and len(checkout.calls("|-m|venv|")) == 2
    assert not (checkout.venv / "left over").exists()


def test_two_first_runs_at_once_install_once(checkout):
    command = [BASH, checkout.root / "train_cub.sh", "meru"]
    gate = checkout.elsewhere / "pip may end"
    environment = checkout.environment(PIP_WAITS_FOR=gate)
    runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        # One of them says that it installs, the other that it waits; only then pip gets on with it.
        first_lines = sorted(run.stderr.readline() for run in runs)
    finally:
        gate.touch()
    for run in runs:
        run.communicate(timeout=60)
        assert run.returncode == 0
    assert "waiting" in first_lines[0] and "PyTorch" in first_lines[1]
    assert checkout.installs() == 1
    assert len(checkout.calls("scripts/train.py|")) == 2


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_active_environment_that_has_everything_is_used(checkout, variable):
    prefix = checkout.add_environment(checkout.elsewhere / "env", "training", "tests")
    result = checkout.run("train_cub.sh", "meru", **{variable: prefix})
    assert result.returncode == 0
    assert checkout.training()[0] == f"{prefix}/bin/python"
    assert checkout.installs() == 0 and not checkout.venv.exists()


def test_active_environment_that_lacks_something_is_left_alone(checkout):
    prefix = checkout.add_environment(checkout.elsewhere / "env")
    result = checkout.run("train_cub.sh", "meru", VIRTUAL_ENV=prefix)
    assert result.returncode == 0
    assert "torch>=2.6" in result.stderr
    assert checkout.training()[0] == f"{checkout.venv}/bin/python"
    assert not [call for call in checkout.calls("|-m|") if call.startswith(str(prefix))]


def test_environment_without_what_the_tests_need_serves_for_training_only(checkout):
    prefix = checkout.add_environment(checkout.elsewhere / "env", "training")
    assert checkout.run("train_cub.sh", "meru", VIRTUAL_ENV=prefix).returncode == 0
    assert checkout.installs() == 0
    assert "pytest>=8" in checkout.run("scripts/test.sh", VIRTUAL_ENV=prefix).stderr
    assert checkout.installs() == 1


@pytest.mark.parametrize(("has", "installs"), [(["training", "tests"], 0), (["training"], 1)])
def test_venv_made_by_hand_is_used_and_completed(checkout, has, installs):
    checkout.add_environment(checkout.venv, *has)
    assert checkout.run("train_cub.sh", "meru").returncode == 0
    assert checkout.installs() == installs and not checkout.calls("|-m|venv|")


@pytest.mark.parametrize("python", [None, "exit 1"])
def test_without_a_usable_python_one_line_says_so(checkout, python):
    (checkout.stubs / "python3").unlink()
    if python:
        write_executable(checkout.stubs / "python3", f"#!{BASH}\n{python}\n")
    result = checkout.run("train_cub.sh", "meru")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "Python >= 3.10" in result.stderr
    assert not checkout.venv.exists()


def test_newest_python_is_preferred_for_venv(checkout):
    for name in ("python3.10", "python3.12"):
        write_executable(checkout.stubs / name, STUB)
    write_executable(checkout.stubs / "python3.13", f"#!{BASH}\nexit 127\n")  # what a version manager leaves
    assert checkout.run("scripts/test.sh").returncode == 0
    (call,) = checkout.calls("|-m|venv|")
    assert call.split("|")[0].endswith("python3.12")


def check(checkout: Checkout, *arguments: str, python_path: Path | str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, checkout.root / "scripts" / "check_environment.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(python_path)}
    return subprocess.run(command, env=environment, cwd=checkout.root, capture_output=True, text=True)


def test_check_wants_meru_of_this_checkout(checkout):
    # The current directory must not count: `python scripts/train.py` does not look there either.
    elsewhere = check(checkout)
    assert (elsewhere.returncode, elsewhere.stdout) == (1, "meru of this checkout\n")
    here = check(checkout, python_path=checkout.root)
    assert (here.returncode, here.stdout) == (0, "\n")


@pytest.mark.parametrize("group", ["dependencies", "test"])
def test_check_names_missing_and_outdated_packages(checkout, group):
    pyproject = checkout.root / "pyproject.toml"
    wanted = f'{group} = [\n    "no-such-package>=1",\n    "pytest>=1000",\n    "pytest>=1",'
    pyproject.write_text(re.sub(rf"^{group} = \[", wanted, pyproject.read_text(), flags=re.MULTILINE))
    for_tests = check(checkout, "test").stdout
    assert "no-such-package>=1, pytest>=1000, " in for_tests and "pytest>=1," not in for_tests
    assert ("no-such-package>=1" in check(checkout).stdout) == (group == "dependencies")


SCRIPTS = {path.name for path in (PROJECT / "scripts").glob("*.py")} - {"check_environment.py", "gpu_check.py"}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_script_says_in_one_line_that_packages_are_missing(script):
    command = [sys.executable, "-S", PROJECT / "scripts" / script, "--help"]  # -S: without installed packages
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "lacks what this project needs" in done.stderr and ". .venv/bin/activate" in done.stderr


def test_constraints_pin_every_dependency_by_name_only():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    pattern = r'([\w.-]+)==[\w.]+(; python_version (<|>=) "3\.11")?'
    assert all(re.fullmatch(pattern, pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    required = re.findall(r'^    "([\w-]+)>=', (PROJECT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert len(required) > 10
    assert {name.lower().replace("_", "-") for name in required} <= pinned
