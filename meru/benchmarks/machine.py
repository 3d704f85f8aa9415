"""Description of the machine of a benchmark: versions, device, threads and commit."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from meru.errors import UserError
from meru.runs.folder import commit


def machine_line(device: str, threads: int) -> str:
    """Describe versions, device, threads and commit in one line; also sets the number of threads.

    Raises:
        UserError: if the device does not exist.
    """
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here: leave out --device cuda", exit_code=1)
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    return f"torch {torch.__version__}, {name}, threads: {threads}, commit {commit()}"


def cpu_name() -> str:
    """The processor's name, from Linux or Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
