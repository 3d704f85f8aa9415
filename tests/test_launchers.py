"""The shell commands, run in a copy of the checkout where each Python is a stub that notes how it was called.

Nothing is downloaded or trained, and PATH holds only the stubs and the few tools the scripts need.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
TOOLS = ["cat", "cksum", "cp", "dirname", "grep", "mkdir", "mv", "nproc", "rm", "sleep", "tail", "touch"]

# An interpreter is "ready" (has meru) once a file of that name lies beside it; `pip install` puts it there.
STUB = f"""#!{BASH}
here=${{BASH_SOURCE[0]%/*}}
printf '%s|' "$0" "$PWD" "$@" >>"$CALLS"
echo >>"$CALLS"
case "$*" in
    *check_environment.py*) [ -e "$here/ready" ] || {{ echo "torch>=2.6"; exit 1; }} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*)
        while [ -n "${{PIP_WAITS_FOR:-}}" ] && [ ! -e "$PIP_WAITS_FOR" ]; do sleep 0.05; done
        [ -z "${{PIP_ERROR:-}}" ] || {{ echo "WARNING: dull"; echo "ERROR: $PIP_ERROR"; exit 1; }}
        touch "$here/ready"
        ;;
    *device_count*) echo "${{GPUS:-0}}" ;;
    -) exec "{sys.executable}" - ;;
    --version) echo "Python 3.12.0" ;;
    *train.py* | "-m pytest"*)
        echo "pid=$$ malloc=${{MALLOC_MMAP_MAX_-}} hidden=${{CUDA_VISIBLE_DEVICES-unset}}" >>"$CALLS"
        exit "${{TRAIN_EXIT:-0}}"
        ;;
esac
"""


def write_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


class Checkout:
    """A copy of what the launchers need, in a folder with spaces in its name."""

    def __init__(self, folder: Path):
        self.root = folder / "my own checkout"
        self.venv = self.root / ".venv"
        self.elsewhere = folder / "else where"
        self.stubs = folder / "bin"
        self.calls_file = folder / "calls"
        self.elsewhere.mkdir()
        for name in ("train_cub.sh", "pyproject.toml", "constraints.txt", "scripts"):
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            (self.root / name).parent.mkdir(exist_ok=True)
            copy(PROJECT / name, self.root / name)
        for recipe in ("cub_meru", "cub_clip", "birds_meru", "birds_clip"):
            recipe_file = self.root / "configs" / "experiment" / f"{recipe}.yaml"
            recipe_file.parent.mkdir(parents=True, exist_ok=True)
            recipe_file.touch()
        write_executable(self.stubs / "python3", STUB)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.stubs / tool).symlink_to(found)

    def environment(self, **variables: object) -> dict[str, str]:
        fixed = {"PATH": str(self.stubs), "HOME": str(self.elsewhere), "CALLS": str(self.calls_file)}
        return fixed | {name: str(value) for name, value in variables.items()}

    def run(self, script: str, *arguments: str, **variables: object) -> subprocess.CompletedProcess:
        """`bash <script> <arguments>` from another directory, with only `variables` in the environment."""
        return subprocess.run(
            [BASH, self.root / script, *arguments],
            cwd=self.elsewhere,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def add_environment(self, name: str, *, ready: bool) -> Path:
        prefix = self.root.parent / name
        write_executable(prefix / "bin" / "python", STUB)
        if ready:
            (prefix / "bin" / "ready").touch()
        return prefix

    def calls(self, pattern: str = "") -> list[str]:
        """The recorded lines that contain `pattern`: `interpreter|directory|argument|...|` or `pid=...`."""
        lines = self.calls_file.read_text(encoding="utf-8").splitlines() if self.calls_file.exists() else []
        return [line for line in lines if pattern in line]

    def training(self) -> list[str]:
        """Interpreter, directory and arguments of the one training that was started."""
        (line,) = self.calls("scripts/train.py|")
        return line.split("|")[:-1]

    def installs(self) -> int:
        return len(self.calls("|-m|pip|install|"))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def installed(checkout: Checkout) -> Checkout:
    """A checkout whose active python3 has everything."""
    (checkout.stubs / "ready").touch()
    return checkout


# Usage


@pytest.mark.parametrize("pattern", ["*.sh", "scripts/*.sh", ".ci/run"])
def test_scripts_parse(pattern):
    scripts = list(PROJECT.glob(pattern))
    assert scripts
    for script in scripts:
        subprocess.run([BASH, "-n", script], check=True)


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        ([], {}, "Which model?"),
        (["hycoclip"], {}, "'hycoclip'"),
        (["seed=1"], {}, "'seed=1'"),
        (["meru", "clip"], {}, "'clip'"),
        (["meru", "seed=1", "--fast"], {}, "'--fast'"),
        (["clip"], {"NGPU": "two"}, "NGPU=two"),
        (["clip"], {"NGPU": "-1"}, "NGPU=-1"),
    ],
)
def test_wrong_usage_exits_2_and_touches_nothing(checkout, arguments, variables, says):
    result = checkout.run("train_cub.sh", *arguments, **variables)
    assert result.returncode == 2
    first_line, usage = result.stderr.split("\n", 1)
    assert says in first_line
    assert usage.startswith("Usage: bash train_cub.sh meru|clip")
    assert result.stdout == ""
    assert not checkout.calls() and not checkout.venv.exists()


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["meru", "--help"]])
def test_help_exits_0(checkout, arguments):
    result = checkout.run("train_cub.sh", *arguments)
    assert result.returncode == 0
    assert "Usage:" in result.stdout and "用法" in result.stdout
    assert not checkout.calls()


# Recipes


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["meru"], ["experiment=cub_meru"]),
        (["clip", "+x.y=[1, 2]", "~logger"], ["experiment=cub_clip", "+x.y=[1, 2]", "~logger"]),
        (["meru", "data=birds"], ["experiment=birds_meru", "data=birds"]),
        (["clip", "data.root=a b", "data=birds"], ["experiment=birds_clip", "data.root=a b", "data=birds"]),
        (["meru", "data=mine"], ["experiment=cub_meru", "data=mine"]),  # no recipe of that name
        (["meru", "data=birds", "experiment=other"], ["data=birds", "experiment=other"]),
    ],
)
def test_recipe_follows_model_and_data(installed, arguments, passed_on):
    assert installed.run("train_cub.sh", *arguments).returncode == 0
    assert installed.training()[2:] == [str(installed.root / "scripts" / "train.py"), *passed_on]


def test_training_keeps_the_users_directory(installed):
    installed.run("train_cub.sh", "meru", "resume=runs/last")
    assert installed.training()[1] == str(installed.elsewhere)


def test_exit_code_of_the_training_is_passed_on(installed):
    assert installed.run("train_cub.sh", "meru", TRAIN_EXIT=7).returncode == 7


def test_training_replaces_the_shell_so_that_signals_reach_it(installed):
    command = [BASH, installed.root / "train_cub.sh", "meru"]
    launcher = subprocess.Popen(command, env=installed.environment(), stderr=subprocess.DEVNULL)
    assert launcher.wait(timeout=60) == 0
    assert installed.calls(f"pid={launcher.pid} ")


# GPUs


@pytest.mark.parametrize(
    ("gpus", "requested", "processes", "on_cpu"),
    [
        (None, None, 1, True),  # no driver at all
        (0, None, 1, True),  # a driver, but nothing torch can use
        (1, None, 1, False),
        (4, None, 4, False),
        (4, 2, 2, False),
        (4, 1, 1, False),
        (4, 0, 1, True),
        (None, 0, 1, True),
        (None, 3, 3, True),
    ],
)
def test_one_process_on_each_gpu_unless_told_otherwise(installed, gpus, requested, processes, on_cpu):
    variables = {} if requested is None else {"NGPU": requested}
    if gpus is not None:
        write_executable(installed.stubs / "nvidia-smi", f"#!{BASH}\n")
        variables["GPUS"] = gpus
    result = installed.run("train_cub.sh", "clip", **variables)
    assert result.returncode == 0
    scripts = installed.root / "scripts"
    torchrun = [str(scripts / "torchrun.py"), "--standalone", f"--nproc-per-node={processes}"]
    train = [str(scripts / "train.py"), "experiment=cub_clip"]
    assert installed.training()[2:] == (torchrun if processes > 1 else []) + train
    assert ("CPU" in result.stderr) == on_cpu
    (settings,) = installed.calls("pid=")
    assert ("malloc=0 " in settings) == on_cpu
    assert settings.endswith("hidden=" if requested == 0 else "hidden=unset")
    if gpus is None or requested == 0:
        assert not installed.calls("import torch")


def test_more_processes_than_gpus_is_an_error(installed):
    write_executable(installed.stubs / "nvidia-smi", f"#!{BASH}\n")
    result = installed.run("train_cub.sh", "meru", GPUS=2, NGPU=3)
    assert result.returncode == 2
    assert "NGPU=3" in result.stderr and "2 GPU" in result.stderr
    assert not installed.calls("train.py")


def test_memory_settings_of_the_user_are_kept(installed):
    installed.run("train_cub.sh", "meru", MALLOC_MMAP_MAX_=65536)
    assert installed.calls("malloc=65536 ")


def test_torchrun_ends_with_the_exit_code_of_the_training_and_without_traceback(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("import sys\nsys.exit(3)\n")
    torchrun = [sys.executable, PROJECT / "scripts" / "torchrun.py", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*torchrun, script], env=environment, capture_output=True, text=True)
    assert result.returncode == 3
    assert "Traceback (most recent call last)" not in result.stderr


# Environments


def test_first_run_installs_into_venv_and_second_installs_nothing(checkout):
    first = checkout.run("train_cub.sh", "meru")
    assert first.returncode == 0
    assert "minutes" in first.stderr and "PyTorch" in first.stderr
    (install,) = checkout.calls("|-m|pip|install|")
    assert install.startswith(f"{checkout.venv}/bin/python|")
    assert install.endswith(f"|-c|{checkout.root}/constraints.txt|-e|{checkout.root}[test]|")
    second = checkout.run("scripts/test.sh")
    assert second.returncode == 0
    assert checkout.installs() == 1 and len(checkout.calls("|-m|venv|")) == 1
    assert second.stderr == ""
    assert checkout.training()[0] == f"{checkout.venv}/bin/python"


def test_new_requirements_are_installed_into_the_same_venv(checkout):
    checkout.run("scripts/test.sh")
    with (checkout.root / "constraints.txt").open("a") as constraints:
        constraints.write("# changed\n")
    checkout.run("scripts/test.sh")
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
    prefix = checkout.add_environment("active env", ready=True)
    result = checkout.run("train_cub.sh", "meru", **{variable: prefix})
    assert result.returncode == 0
    assert checkout.training()[0] == f"{prefix}/bin/python"
    assert checkout.installs() == 0 and not checkout.venv.exists()


def test_active_environment_that_lacks_something_is_left_alone(checkout):
    prefix = checkout.add_environment("active env", ready=False)
    result = checkout.run("train_cub.sh", "meru", VIRTUAL_ENV=prefix)
    assert result.returncode == 0
    assert "torch>=2.6" in result.stderr
    assert checkout.training()[0] == f"{checkout.venv}/bin/python"
    assert not [call for call in checkout.calls("|-m|") if call.startswith(str(prefix))]


def test_complete_venv_made_by_hand_is_used(checkout):
    write_executable(checkout.venv / "bin" / "python", STUB)
    (checkout.venv / "bin" / "ready").touch()
    assert checkout.run("train_cub.sh", "meru").returncode == 0
    assert checkout.installs() == 0


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


def test_test_command_passes_arguments_on_and_runs_in_the_project(installed):
    assert installed.run("scripts/test.sh", "-k", "lorentz or clip", TRAIN_EXIT=5).returncode == 5
    (call,) = installed.calls("|-m|pytest|")
    assert call.split("|")[1:-1] == [str(installed.root), "-m", "pytest", "-k", "lorentz or clip"]
