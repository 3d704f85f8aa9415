"""What training imports before its first step, and what answers without PyTorch."""

import subprocess
import sys

import pytest

from meru.benchmarks.startup import SCRIPTS, fresh, script
from meru.configuration.composing import help_text
from meru.errors import UserError
from meru.files import CONFIGS, PROJECT
from meru.runs.commands import _missing

HEAVY = ("matplotlib", "sklearn", "scipy.stats", "scipy.special", "wandb", "pandas")


def test_training_needs_no_plots_and_no_statistics_before_its_first_step():
    code = (
        "import sys; from meru.runs.commands import _missing\n"
        "with _missing('wandb'):\n    import timm\n"
        "import meru.runs.train, meru.tasks.image_text\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_mistakes_need_no_pytorch(name):
    code = (
        "import runpy, sys, builtins\n"
        "real = builtins.__import__\n"
        "def guarded(name, *rest, **more):\n"
        "    assert name.partition('.')[0] not in ('torch', 'torchvision', 'timm'), name\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = guarded\n"
        f"sys.argv = [{script(name)!r}, '--help']; sys.path.insert(0, {str(PROJECT / 'scripts')!r})\n"
        f"runpy.run_path({script(name)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0 and len(done.stdout) > 100, done.stderr[-500:]


def test_help_lists_groups_without_bases_and_the_configuration_with_overrides():
    text = help_text(["trainer.epochs=77"], command="train")
    assert "epochs: 77" in text and "\nmodel: clip, " in text and "_loading" not in text
    assert all(f"\n{folder.name}: " in text for folder in CONFIGS.iterdir() if folder.is_dir())
    with pytest.raises(UserError, match="no such key"):
        help_text(["trainer.epoch=7"], command="train")


def test_a_package_is_missing_inside_and_back_afterwards():
    sys.modules.pop("this", None)
    with _missing("this"), pytest.raises(ImportError):
        import this  # noqa: F401
    assert "this" not in sys.modules
    with _missing("json"):
        import json
    assert json is sys.modules["json"]


def test_a_command_that_fails_is_named():
    assert min(fresh(["-c", "pass"], 1)) >= 0
    with pytest.raises(UserError, match="ended with exit code 3"):
        fresh(["-c", "raise SystemExit(3)"], 1)
