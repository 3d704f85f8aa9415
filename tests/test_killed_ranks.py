"""A process killed at any moment ends the job with its name; the run goes on to the bits of an undisturbed one."""

import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from process_groups import results_of  # noqa: F401 (sets what the server of processes imports)
from test_processes import COMMON, SMALL_TEXT

from meru import heartbeat
from meru.files import PROJECT
from meru.runs.commands import train

# A method, the number of the call, and the rank that is killed by it.
MOMENTS = {
    "step": ("torch:Tensor.backward", 5, 1),
    "validation": ("meru.evaluation.image_text:image_text_retrieval", 2, 0),
    "checkpoint": ("meru.training.checkpoint:checksum", 2, 0),
    "end": ("meru.runs.finish:report", 1, 1),
}


def die_at(place, call):
    """Let a call of a function kill this process."""
    module, _, names = place.partition(":")
    *classes, name = names.split(".")
    owner = importlib.import_module(module)
    for each in classes:
        owner = getattr(owner, each)
    original, left = getattr(owner, name), [call]

    def deadly(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, deadly)


def process(rank, port, arguments, errors, moment):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost")
    os.environ.update(MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="")
    stream = open(errors, "w")  # noqa: SIM115 (the process's standard error from here on)
    os.dup2(stream.fileno(), 2)
    os.dup2(stream.fileno(), 1)
    sys.argv = ["train.py", *arguments]
    heartbeat.BEAT = 0.2
    if moment and moment[2] == rank:
        die_at(*moment[:2])
    train()


def run(arguments, folder, moment=None):
    """Train in two processes without torchrun; returns exit codes, the last lines, and the seconds."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context, began = multiprocessing.get_context("forkserver"), time.monotonic()
    files = [folder / f"stderr_{rank}" for rank in range(2)]
    ranks = [
        context.Process(target=process, args=(rank, port, arguments, str(files[rank]), moment)) for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(100)
        rank.kill()
    codes = [rank.exitcode for rank in ranks]
    return codes, [file.read_text().strip().splitlines()[-1:] for file in files], time.monotonic() - began


@pytest.fixture(scope="module")
def overrides(cub_folder):
    """A run of six steps with a checkpoint after each and three validations."""
    return [
        "experiment=birds_meru", *COMMON, *SMALL_TEXT, f"data.root={cub_folder}", "data.batch_size=4",
        "data.load._target_=meru.data.datasets.cub.load_cub", "data.validation_fraction=0.25", "trainer.epochs=3",
        "trainer.checkpoint_every=1", "evaluation.figures=null", "evaluation.batch_size=2",
    ]  # fmt: skip


def results(folder):
    """Everything of a run but its speed: figures of steps and validations, weights, figures of the test split."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]
    return figures, (folder / "model.safetensors").read_bytes(), json.loads((folder / "test.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    codes, lines, _ = run([*overrides, f"folder={folder / 'run'}"], folder)
    assert codes == [0, 0], lines
    return results(folder / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork servers")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_process_is_named_and_the_run_ends_with_the_same_bits(moment, overrides, undisturbed, tmp_path):
    folder, dead = tmp_path / "run", MOMENTS[moment][2]
    codes, lines, seconds = run([*overrides, f"folder={folder}"], tmp_path, MOMENTS[moment])
    assert codes[dead] == -signal.SIGKILL and codes[1 - dead] == 1, lines
    assert lines[1 - dead][0].startswith(f"error: rank {1 - dead}: ") and f"rank {dead}" in lines[1 - dead][0]
    assert seconds < 60
    codes, lines, _ = run([*overrides, f"resume={folder}"], tmp_path)
    assert codes == [0, 0], lines
    assert results(folder) == undisturbed


KILLED_AT_START = """
import os, signal
from meru import distributed, stopping
from meru.command_line import one_line_errors
with one_line_errors(), stopping.listening():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.start()
"""


def test_torchrun_names_a_process_that_is_killed_before_the_group_exists(tmp_path):
    (tmp_path / "ranks.py").write_text(KILLED_AT_START)
    command = [sys.executable, PROJECT / "scripts" / "torchrun.py", "--standalone", "--nproc-per-node=2"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, tmp_path / "ranks.py"], capture_output=True, text=True, env=settings, timeout=60
    )
    assert done.returncode == 137
    assert done.stderr.startswith("error: rank 1: killed by SIGKILL") and done.stderr.count("\n") == 1
