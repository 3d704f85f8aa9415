"""Runs a function in several processes that form a gloo group."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from meru import distributed

# Imported once, by the server that the processes are forked from.
multiprocessing.set_forkserver_preload(["open_clip", "timm", "meru.runs.train"])


def results_of(task: Callable, *arguments, processes: int = 2) -> list:
    """What `task(rank, *arguments)` gives in each of the processes, by rank; what torch can save."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _in_group, (folder, processes, task, *arguments), nprocs=processes, start_method="forkserver"
        )
        return [torch.load(f"{folder}/{rank}.pt") for rank in range(processes)]


def _in_group(rank: int, folder: str, processes: int, task: Callable, *arguments) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes))
    distributed.join(dist.FileStore(f"{folder}/rendezvous", processes), rank, processes)
    torch.save(task(rank, *arguments), f"{folder}/{rank}.pt")
    distributed.stop()
