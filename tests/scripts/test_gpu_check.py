"""`scripts/gpu_check.sh`: a smoke run on the CPU, parts that fail or hang, and an environment that lacks packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from meru.files import PROJECT
from meru.gpu_check import check as gpu_check
from meru.gpu_check.parts import PARTS

SCRIPT = ["bash", str(PROJECT / "scripts" / "gpu_check.sh")]


def variables(**more):
    """The environment of the tests, in which no GPU is seen."""
    return {**os.environ, "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@pytest.mark.slow
def test_a_smoke_run_passes_every_part(tmp_path):
    done = subprocess.run(
        [*SCRIPT, tmp_path / "out", "--smoke"], env=variables(), capture_output=True, text=True, check=False
    )
    log = (tmp_path / "out" / "log.txt").read_text("utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + log[-4000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert list(results["parts"]) == list(PARTS)
    assert all(part["status"] == "passed" and part["figures"] for part in results["parts"].values())
    steps = results["parts"]["steps"]["figures"]["rows"]
    assert [row["model"] for row in steps] == ["clip", "meru", "open_clip tiny"]
    assert all(row["teraflops"] > 0 for row in steps)
    losses = {row["model"]: row["loss"] for row in results["parts"]["loss"]["figures"]["rows"]}
    for model in ("clip", "meru"):
        for form in ("whole matrix", "tiled"):
            assert losses[f"{model}, {form}"] == pytest.approx(losses[f"{model}, published form"], rel=1e-4)
    for test in ("test_a_plain_product_is_not_float32_with_tf32", "test_compiled_gives_the_loss"):
        assert re.search(rf"{test}\S* SKIPPED", log), "the log has a line per test, which outlasts a time limit"
    report = (tmp_path / "out" / "results.md").read_text("utf-8")
    for heading in ("Machine", "Tests", "Training step", "GAHR", "Category discovery", "Losses", "Images", "Training"):
        assert f"\n## {heading}" in report
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log.txt", "results.json", "results.md"]


def run_parts(tmp_path, monkeypatch, scripts, seconds=30):
    """Results of a check whose parts are the given Python scripts, each called with `FILE` for its figures."""
    monkeypatch.setattr(gpu_check, "BUDGET", dict.fromkeys(scripts, seconds))

    def of_part(command, seconds, variables, log):
        figures = command[command.index("--output") + 1]
        code = textwrap.dedent(scripts[command[3]])
        return run_part([sys.executable, "-c", f"FILE = {figures!r}\n{code}"], seconds, variables, log)

    run_part = gpu_check.run_part
    monkeypatch.setattr(gpu_check, "run_part", of_part)
    out = tmp_path / "out"
    out.mkdir()
    return gpu_check.run_parts(list(scripts), out, tmp_path, dict(os.environ))["parts"]


def test_parts_that_fail_or_hang_are_reported_and_do_not_stop_the_next(tmp_path, monkeypatch):
    parts = run_parts(
        tmp_path,
        monkeypatch,
        {
            "fails": "raise SystemExit(3)",
            "killed": "import os; os.kill(os.getpid(), 9)",
            "hangs": """
                import subprocess, sys, time
                open(FILE, "w").write('{"seen": 1}')
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                open(FILE + ".child", "w").write(str(child.pid))
                time.sleep(600)
                """,
            "passes": """open(FILE, "w").write('{"seen": 2}')""",
        },
        seconds=6,
    )
    assert [part["status"] for part in parts.values()] == [
        "failed with exit code 3", "failed with exit code -9", "stopped after 6 s", "passed",
    ]  # fmt: skip
    assert parts["hangs"]["figures"] == {"seen": 1}, "what it had found before is kept"
    child = int((tmp_path / "hangs.json.child").read_text())
    assert ended(child), "what a part started ends with it"
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["parts"] == parts
    assert "| hangs | stopped after 6 s |" in (tmp_path / "out" / "results.md").read_text("utf-8")


def ended(process, seconds=10):
    for _ in range(10 * seconds):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_parts_for_which_no_time_is_left_are_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "TOTAL", 3)
    parts = run_parts(tmp_path, monkeypatch, {"late": "raise AssertionError"})
    assert parts["late"]["status"] == "no time left"


def test_without_a_gpu_one_line_says_so(tmp_path):
    done = subprocess.run([*SCRIPT, tmp_path / "out"], env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "gpu_check: PyTorch sees no GPU here; on a CPU: --smoke"


def wheel(folder, name, version="1.0"):
    """The smallest wheel of a package with one module."""
    folder.mkdir(exist_ok=True)
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        file.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{information}/RECORD", "")


@pytest.fixture
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_missing_packages_come_from_wheels_and_nothing_present_is_replaced(tmp_path, own_path):
    wheel(tmp_path / "wheels", "carried_here")
    wheel(tmp_path / "wheels", "pluggy", "0.1")
    found = gpu_check.environment_of_parts(tmp_path / "wheels", tmp_path, ["pluggy", "carried_here"])
    question = "import carried_here, pluggy; print(carried_here.VERSION, pluggy.__version__ != '0.1')"
    done = subprocess.run([sys.executable, "-c", question], env=found, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1.0", "True"], done.stderr
    assert [path.name for path in (tmp_path / "packages").glob("*.dist-info")] == ["carried_here-1.0.dist-info"]


@pytest.mark.parametrize(
    ("needed", "says"),
    [
        (["not_to_be_had"], "lacks not_to_be_had, and .* has no wheel for it"),
        (["carried_here", "not_to_be_had"], "lacks not_to_be_had, and"),
    ],
)
def test_a_package_that_no_wheel_brings_is_named(tmp_path, own_path, capsys, needed, says):
    wheel(tmp_path / "wheels", "carried_here")
    with pytest.raises(SystemExit) as left:
        gpu_check.environment_of_parts(tmp_path / "wheels", tmp_path, needed)
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert re.search(says, line)


def test_without_wheels_one_line_says_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        gpu_check.environment_of_parts(tmp_path, tmp_path, ["not_to_be_had"])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert "lacks not_to_be_had" in line and "scripts/test.sh" in line and "--wheels" in line


def test_a_complete_environment_needs_no_wheels(tmp_path):
    gpu_check.environment_of_parts(tmp_path / "none", tmp_path, ["torch", "pytest"])
    assert not (tmp_path / "packages").exists()
