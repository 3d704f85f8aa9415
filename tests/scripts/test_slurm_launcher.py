"""Multiruns as jobs: the launcher of the extra `slurm`, and what is said without it."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from meru.command_line import _failure_of_job
from meru.configuration.composing import compose
from meru.errors import UserError
from meru.files import PROJECT

with_launcher = pytest.mark.skipif(
    find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="hydra-submitit-launcher is not installed",
)


@pytest.mark.skipif(not with_launcher.args[0], reason="hydra-submitit-launcher is installed")
@pytest.mark.parametrize("launcher", ["slurm", "submitit_local"])
def test_without_the_extra_one_line_says_what_to_install(launcher):
    with pytest.raises(UserError, match=f"hydra/launcher={launcher} needs submitit: pip install hydra-submitit"):
        compose([f"hydra/launcher={launcher}"])


@with_launcher
def test_keys_of_the_launcher_are_those_of_submitit():
    overrides = ["hydra/launcher=slurm", "hydra.launcher.nodes=2", "hydra.launcher.partition=gpu"]
    _, choices = compose(overrides)
    assert choices["hydra/launcher"] == "slurm"


@with_launcher
def test_a_multirun_of_two_trainings_runs_as_jobs(cub_folder, tmp_path):
    words = [
        "-m", "hydra/launcher=submitit_local", "seed=0,1", "experiment=birds_meru", "encoder=small",
        "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "data.batch_size=4", "data.workers=0",
        "data.load._target_=meru.data.datasets.cub.load_cub", f"data.root={cub_folder}", "trainer.epochs=1",
        "evaluation.figures=null", "logger=none", f"output={tmp_path}",
    ]  # fmt: skip
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = PROJECT / "scripts" / "train.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, env=settings, timeout=150)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/*/test.json"))) == 2


def test_a_failed_job_is_one_line():
    message = (
        "Job 7 (task: 0) with path /out/7/7_0_result.pkl\nhas not produced any output (state: FINISHED)\n"
        "Error stream produced:\n-----\nerror: no CUB data: restore them\n\n"
    )
    assert _failure_of_job(message) == "a job failed: no CUB data: restore them; its output: /out/7/7_0_log.err"
