"""Groups of processes on several machines: what torchrun and SLURM say of them, and what is done about a lost one."""

import os
import socket
import subprocess
import sys

import pytest

from meru.cluster import described_group, first_host, hint
from meru.errors import UserError
from meru.files import PROJECT

STEP = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[003-004]", "SLURM_NODELIST": "gpu[001-009]",
}  # fmt: skip


def without(*names):
    return {name: value for name, value in STEP.items() if name not in names}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[003-005,7]", "gpu003"),
        ("gpu[7,003-005],login1", "gpu7"),
        ("login1,gpu[1-2]", "login1"),
        ("localhost", "localhost"),
        ("rack[2-3]n[05,07].cluster.org,x", "rack2n05.cluster.org"),
        ("node-a-[12-20]", "node-a-12"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "[", "a b", "gpu[x]"])
def test_a_list_without_a_host_is_one_line(nodes):
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST=.*MASTER_ADDR"):
        first_host(nodes)


def test_srun_gives_rank_size_address_and_port():
    group = described_group(STEP)
    assert group[:4] == (5, 8, 1, "gpu003") and group.by_slurm
    assert 10_000 <= int(group.port) < 30_000
    ports = {described_group({**STEP, "SLURM_JOB_ID": job, "SLURM_STEP_ID": "0"}).port for job in ("7", "8", "9")}
    assert len(ports) == 3


def test_an_address_that_is_set_stays():
    group = described_group({**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "77", "WORLD_SIZE": "2"})
    assert (group.rank, group.size, group.address, group.port) == (5, 8, "here", "77")


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_cannot_be_is_refused_at_once(port):
    with pytest.raises(UserError, match=f"MASTER_PORT={port} is not a port"):
        described_group({**STEP, "MASTER_PORT": port})


def test_torchrun_within_a_step_has_the_word():
    inside = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert described_group({**STEP, **inside})[:3] == (0, 2, 0)


@pytest.mark.parametrize(
    "environment",
    [
        without("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS") | {"SLURM_PROCID": "0"},  # the shell of a batch script
        STEP | {"SLURM_STEP_ID": "4294967291", "SLURM_PROCID": "0"},  # the same where the step has its number
        without("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # a shell of salloc
        STEP | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},  # the same on a node of the job
        STEP | {"SLURM_PTY_PORT": "40000", "SLURM_PROCID": "0"},  # srun --pty bash
    ],
)
def test_a_shell_in_a_job_waits_for_nobody_and_gives_advice(environment):
    assert described_group(environment) is None
    assert "8 tasks" in hint(environment) and "srun python" in hint(environment)


def test_a_step_of_one_task_is_a_single_process_without_advice():
    alone = STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert described_group(alone) is None and hint(alone) is None
    assert hint({}) is None and hint(STEP) is None


RANK = """
import os
from pathlib import Path
from meru import distributed, stopping
from meru.command_line import one_line_errors
from meru.restarts import note_run, noted_run
with one_line_errors(), stopping.listening():
    distributed.start()
    seen = distributed.collect((distributed.rank(), str(noted_run())))
    if distributed.is_main():
        print(seen, flush=True)
    note_run(Path("/runs/first"))
    distributed.wait_for_all()
    if noted_run() and os.environ["RANK"] == "1" and seen[0][1] == "None":
        os.kill(os.getpid(), 9)
    distributed.wait_for_all()
    distributed.stop()
"""


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_two_machines_lose_a_process_and_go_on_with_their_run(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}
    meet = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=test"]
    command = [sys.executable, PROJECT / "scripts" / "torchrun.py", *meet, "--nproc-per-node=1", "--max-restarts=3"]
    agents = [
        subprocess.Popen([*command, tmp_path / "rank.py"], stdout=subprocess.PIPE, text=True, env=settings)
        for _ in range(2)
    ]
    outputs = [agent.communicate(timeout=100)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0]
    first, *_, last = sorted("".join(outputs).splitlines(), key=lambda line: "/runs/first" in line)
    assert first == "[(0, 'None'), (1, 'None')]"
    assert last == "[(0, '/runs/first'), (1, '/runs/first')]"


MEETING = """
from meru import distributed
device = distributed.start()
print(distributed.collect((distributed.rank(), str(device))), flush=True)
distributed.wait_for_main()
distributed.stop()
"""


def test_tasks_of_srun_form_a_group(tmp_path):
    (tmp_path / "task.py").write_text(MEETING)
    step = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    settings = {**os.environ, **step, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}
    tasks = [
        subprocess.Popen(
            [sys.executable, tmp_path / "task.py"],
            stdout=subprocess.PIPE,
            text=True,
            env={**settings, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
        )
        for number in range(2)
    ]
    outputs = [task.communicate(timeout=100)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert outputs == ["[(0, 'cpu'), (1, 'cpu')]\n"] * 2
