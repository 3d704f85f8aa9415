"""The shell commands: what they accept, which recipe they start, and how; every Python is a stub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stub_checkout import BASH, PROJECT, Checkout, write_executable

PARALLEL = ["-n", "auto", "--maxprocesses", "8", "--dist", "loadfile"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def installed(checkout: Checkout) -> Checkout:
    """A checkout whose active python3 has everything."""
    for what in ("training", "tests"):
        (checkout.stubs / what).touch()
    return checkout


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
        (["clip"], {"NNODES": "two"}, "NNODES=two"),
        (["clip"], {"NNODES": "2"}, "give MASTER_ADDR"),
        (["clip"], {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "here"}, "NODE_RANK=2"),
        (["clip"], {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "x"}, "MASTER_PORT=x"),
        (["clip"], {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "65536"}, "MASTER_PORT=65536"),
        (["clip"], {"MAX_RESTARTS": "9" * 20}, "MAX_RESTARTS=9"),
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


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["meru"], ["experiment=cub_meru"]),
        (["clip", "+x.y=[1, 2]", "~logger"], ["experiment=cub_clip", "+x.y=[1, 2]", "~logger"]),
        (["meru", "data=birds"], ["experiment=birds_meru", "data=birds"]),
        (["clip", "data.root=a b", "data=birds"], ["experiment=birds_clip", "data.root=a b", "data=birds"]),
        (["meru", "data.root=/鸟 类,(1)=x"], ["experiment=cub_meru", "data.root=/鸟 类,(1)=x"]),
        (["meru", "data=mine"], ["experiment=cub_meru", "data=mine"]),  # no recipe of that name
        (["meru", "data=birds", "experiment=other"], ["data=birds", "experiment=other"]),
        (["meru", "--cfg", "job"], ["experiment=cub_meru", "--cfg", "job"]),
        # as agents of wandb's sweeps write parameters
        (["meru", "--seed=1", "--data=birds"], ["experiment=birds_meru", "--seed=1", "--data=birds"]),
        (["clip", "--experiment=other"], ["--experiment=other"]),
    ],
)
def test_recipe_follows_model_and_data(installed, arguments, passed_on):
    assert installed.run("train_cub.sh", *arguments).returncode == 0
    assert installed.training()[2:] == [str(installed.root / "scripts" / "train.py"), *passed_on]


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        ([], ["experiment=cub_meru_patches"]),
        (["data=birds", "model.top=8"], ["experiment=birds_meru_patches", "data=birds", "model.top=8"]),
        (["resume=runs/last"], ["experiment=cub_meru_patches", "resume=runs/last"]),
    ],
)
def test_the_patches_command_takes_overrides_only(installed, arguments, passed_on):
    assert installed.run("train_patches_cub.sh", *arguments).returncode == 0
    assert installed.training()[2:] == [str(installed.root / "scripts" / "train.py"), *passed_on]


def test_the_patches_command_explains_itself(checkout):
    helped, wrong = checkout.run("train_patches_cub.sh", "--help"), checkout.run("train_patches_cub.sh", "meru")
    assert helped.returncode == 0 and "Usage: bash train_patches_cub.sh" in helped.stdout and "用法" in helped.stdout
    assert wrong.returncode == 2 and "'meru'" in wrong.stderr
    assert not checkout.calls()


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
    assert settings.endswith("hidden=" if requested == 0 else "hidden=unset")
    if gpus is None or requested == 0:
        assert not installed.calls("import torch")


def test_more_processes_than_gpus_is_an_error(installed):
    write_executable(installed.stubs / "nvidia-smi", f"#!{BASH}\n")
    result = installed.run("train_cub.sh", "meru", GPUS=2, NGPU=3)
    assert result.returncode == 2
    assert "NGPU=3" in result.stderr and "2 GPU" in result.stderr
    assert not installed.calls("train.py")


def test_torchrun_ends_with_the_exit_code_of_the_training_and_without_traceback(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("import sys\nsys.exit(3)\n")
    torchrun = [sys.executable, PROJECT / "scripts" / "torchrun.py", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*torchrun, script], env=environment, capture_output=True, text=True)
    assert result.returncode == 3
    assert "Traceback (most recent call last)" not in result.stderr


def test_test_command_passes_arguments_on_and_runs_in_the_project(installed):
    assert installed.run("scripts/test.sh", "-k", "lorentz or clip", TRAIN_EXIT=5).returncode == 5
    (call,) = installed.calls("|-m|pytest|")
    assert call.split("|")[1:-1] == [str(installed.root), "-m", "pytest", *PARALLEL, "-k", "lorentz or clip"]
