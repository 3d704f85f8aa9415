"""Which group of processes this one belongs to, from the variables of torchrun or of SLURM.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Under `srun python scripts/train.py …`, SLURM
numbers the tasks of the step, and the rest follows: the first host of the step is the address, and the port is derived
from the numbers of job and step, so that jobs on one machine have different ones.

A batch script's own shell and a shell of `salloc` have some of SLURM's variables too, without other tasks beside them:
there a command is one process.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

from meru.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
ALONE = f"to train in one process: unset {' '.join(VARIABLES)}"
FIRST_SPECIAL_STEP = 0xFFFFFF00  # numbers of steps from here on mean the batch script, an interactive shell, …
FIRST_PORT, PORTS = 10_000, 20_000  # below the ports that systems give to clients


class Group(NamedTuple):
    """A process's place in its group.

    Attributes:
        rank: Number of the process, from 0.
        size: Number of processes.
        local: Number of the process on its machine.
        address, port: Where the process with rank 0 listens; empty for a group of one.
        by_slurm: Whether SLURM numbered the processes.
    """

    rank: int
    size: int
    local: int
    address: str
    port: str
    by_slurm: bool


def described_group(environment: Mapping[str, str] = os.environ) -> Group | None:
    """The group in the environment; None for a single process.

    Clusters and earlier commands leave some of the variables behind, without a group to join.

    Raises:
        UserError: if the variables contradict each other, or some are missing.
    """
    if not environment.get("RANK") and in_slurm_step(environment):
        environment = {**environment, **_of_slurm(environment)}
        by_slurm = True
    else:
        by_slurm = False
    size = _number(environment, "WORLD_SIZE", 1)
    if size < 1:
        raise UserError(f"WORLD_SIZE={size} is not a number of processes: {ALONE}")
    if size == 1 and not environment.get("MASTER_ADDR"):
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing and size > 1:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"WORLD_SIZE={size} asks for {size} processes, but {' and '.join(missing)} {are} not set: start "
            f"them with torchrun or `NGPU={size} bash train_cub.sh`; {ALONE}"
        )
    rank = _number(environment, "RANK", 0) if size > 1 else 0
    if not 0 <= rank < size:
        raise UserError(f"RANK={rank}: with WORLD_SIZE={size} it must be from 0 to {size - 1}; {ALONE}")
    if size > 1:
        port = _number(environment, "MASTER_PORT", 0)
        if not 1 <= port <= 65_535:
            raise UserError(f"MASTER_PORT={port} is not a port: give a number from 1 to 65535; {ALONE}")
    local = _number(environment, "LOCAL_RANK", 0)
    return Group(rank, size, local, environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", ""), by_slurm)


def in_slurm_step(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `srun` started this process beside others."""
    step = environment.get("SLURM_STEP_ID", environment.get("SLURM_STEPID", ""))
    if not step.isdigit() or int(step) >= FIRST_SPECIAL_STEP or not environment.get("SLURM_PROCID", "").isdigit():
        return False
    shell = environment.get("SLURM_PTY_PORT")  # of `srun --pty bash`: only the first task has a terminal
    return not shell and _tasks(environment) > 1


def _tasks(environment: Mapping[str, str]) -> int:
    """Number of tasks of the step; of the whole job where an old SLURM gives no other number."""
    text = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    return int(text) if text.isdigit() else 1


def hint(environment: Mapping[str, str] = os.environ) -> str | None:
    """Advice for a single process in a job of several tasks, which are probably meant to be used; else None."""
    tasks = environment.get("SLURM_NTASKS", "1")
    if not tasks.isdigit() or int(tasks) < 2 or described_group(environment) is not None:
        return None
    return (
        f"SLURM gives this job {tasks} tasks, and this is one process: to use all of them, start it with "
        "`srun python scripts/train.py …`"
    )


def _of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """SLURM's numbers under the names that torchrun gives them; an address and a port that are set stay."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or socket.gethostname()
    job, step = (environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    number = int(job) * 31 + int(step) if job.isdigit() and step.isdigit() else 0
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(_tasks(environment)),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(FIRST_PORT + number % PORTS),
    }


def first_host(nodes: str) -> str:
    """The first name in a list of nodes as SLURM writes it: `gpu[003-005,7],login1` → `gpu003`.

    Raises:
        UserError: if the list cannot be read.
    """
    first = re.match(r"(?:\[[^\]]*\]|[^,\[\]])+", nodes.strip())
    name = re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0]) if first else ""
    if not name or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"SLURM_STEP_NODELIST={nodes} names no host: set MASTER_ADDR to the first node of the job")
    return name


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """An integer from the environment."""
    text = environment.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{name}={text} is not an integer; {ALONE}")
    return int(text)
