"""What decides whether an environment will do: scripts/check_environment.py and the pins in constraints.txt."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of pyproject.toml and the check beside an empty package `meru`."""
    root = tmp_path / "my own checkout"
    for name in ("pyproject.toml", "scripts/check_environment.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    (root / "meru").mkdir()
    (root / "meru" / "__init__.py").touch()
    return root


def check(checkout: Path, *arguments: str, python_path: Path | str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, checkout / "scripts" / "check_environment.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(python_path)}
    return subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True)


def test_check_wants_meru_of_this_checkout(checkout):
    # The current directory must not count: `python scripts/train.py` does not look there either.
    elsewhere = check(checkout)
    assert (elsewhere.returncode, elsewhere.stdout) == (1, "meru of this checkout\n")
    here = check(checkout, python_path=checkout)
    assert (here.returncode, here.stdout) == (0, "\n")


@pytest.mark.parametrize("group", ["dependencies", "test"])
def test_check_names_missing_and_outdated_packages(checkout, group):
    pyproject = checkout / "pyproject.toml"
    wanted = f'{group} = [\n    "no-such-package>=1",\n    "pytest>=1000",\n    "pytest>=1",'
    pyproject.write_text(re.sub(rf"^{group} = \[", wanted, pyproject.read_text(), flags=re.MULTILINE))
    for_tests = check(checkout, "test").stdout
    assert "no-such-package>=1, pytest>=1000, " in for_tests and "pytest>=1," not in for_tests
    assert ("no-such-package>=1" in check(checkout).stdout) == (group == "dependencies")


def test_constraints_pin_every_dependency_by_name_only():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    pattern = r'([\w.-]+)==[\w.]+(; python_version (<|>=) "3\.11")?'
    assert all(re.fullmatch(pattern, pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    required = re.findall(r'^    "([\w-]+)>=', (PROJECT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert len(required) > 10
    assert {name.lower().replace("_", "-") for name in required} <= pinned
