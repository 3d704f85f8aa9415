"""`scripts/export.py` and `scripts/interpolate.py` on the command line: one line for what is wrong."""

import subprocess

import pytest

from meru.files import PROJECT


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("export.py", ["run=x", "format=hub", "out=y"], "'out=y': expected key=value with one of run, format, output"),
        ("export.py", ["run=x", "format=pickle", "output=y"], "format=pickle: choose one of safetensors, onnx, hub"),
        ("interpolate.py", ["run=x", "shares=2", "output=y"], "shares=2: '2': give numbers from 0"),
    ],
)
def test_wrong_usage_is_one_line(script, words, message, warm_python, tmp_path):
    command = [warm_python, PROJECT / "scripts" / script, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["export.py", "interpolate.py"])
def test_without_words_the_usage_is_shown(script, tmp_path, warm_python):
    command = [warm_python, PROJECT / "scripts" / script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"python scripts/{script} run=" in done.stdout
