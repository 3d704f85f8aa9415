"""`scripts/test.sh` installs the browser that the search page is tested in, where it can."""

import os

import pytest
from stub_checkout import BASH, Checkout, write_executable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")


@pytest.fixture
def checkout(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.add_environment(checkout.venv, "training", "tests")
    write_executable(checkout.stubs / "timeout", f'#!{BASH}\nshift\n"$@"\n')
    return checkout


def add_apt(checkout, then):
    write_executable(checkout.stubs / "apt-get", f'#!{BASH}\necho "apt-get $*" >>"$CALLS"\necho noise\n{then}\n')


def test_a_missing_browser_is_installed_before_the_tests(checkout):
    add_apt(checkout, "exit 0")
    done = checkout.run("scripts/test.sh")
    assert done.returncode == 0 and "noise" not in done.stdout + done.stderr
    assert "Installing Debian's chromium" in done.stderr and "cannot" not in done.stderr
    assert checkout.calls("apt-get ") == ["apt-get update", "apt-get install -y --no-install-recommends chromium"]
    assert checkout.calls("|-m|pytest|")


def test_tests_run_without_a_browser_that_cannot_be_installed(checkout):
    add_apt(checkout, "exit 100")
    done = checkout.run("scripts/test.sh")
    assert done.returncode == 0 and "chromium cannot be installed: those tests are skipped." in done.stderr
    assert checkout.calls("|-m|pytest|")


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_a_browser_that_is_there_is_used(checkout, name):
    add_apt(checkout, "exit 0")
    write_executable(checkout.stubs / name, f"#!{BASH}\n")
    assert "Installing" not in checkout.run("scripts/test.sh").stderr and not checkout.calls("apt-get ")


def test_nothing_is_installed_where_there_is_no_apt(checkout):
    done = checkout.run("scripts/test.sh")
    assert done.returncode == 0 and "chromium" not in done.stderr
