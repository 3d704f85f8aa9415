"""Train the runs of an ablation, one per GPU at a time, and resume unfinished ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from meru.configuration.overrides import override
from meru.errors import UserError
from meru.files import CONFIGS, PROJECT
from meru.run_layout import CONFIG, FIGURES, LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TRAIN = PROJECT / "scripts" / "train.py"
LINES_OF_A_FAILURE = 8
MOST_JOBS = 1000


@dataclass
class Run:
    """One variant with one seed.

    Attributes:
        overrides: All overrides except the folder.
        configuration: The contents of the run's `config.yaml`, present or future.
    """

    variant: str
    seed: int
    folder: Path
    overrides: list[str]
    configuration: dict

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def finished(self) -> bool:
        return (self.folder / FIGURES).is_file()

    @property
    def begun(self) -> bool:
        return (self.folder / CONFIG).is_file()

    def command(self) -> list[str]:
        """The command that begins or resumes the run."""
        if not self.begun:
            return [sys.executable, str(TRAIN), *self.overrides, override("folder", self.folder)]
        # The rest is in its own configuration; a key added by + cannot be given a second time.
        choices = [word for word in self.overrides if (CONFIGS / word.partition("=")[0]).is_dir()]
        return [sys.executable, str(TRAIN), *choices, override("resume", self.folder)]


def slots_of(jobs: str) -> list[dict[str, str]]:
    """Environment variables for each concurrent run, which assign it a GPU and its share of the cores."""
    if jobs and not (re.fullmatch(r"[1-9]\d{0,3}", jobs) and int(jobs) <= MOST_JOBS):
        raise UserError(f"jobs={jobs}: give a whole number from 1 to {MOST_JOBS} (runs at a time)")
    gpus = visible_gpus()
    count = int(jobs or max(1, len(gpus)))
    if gpus and count > len(gpus):
        raise UserError(f"jobs={count}: there are {len(gpus)} GPUs, and each takes one run at a time")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    gpu_of = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:count]] or [{}] * count
    return [{**gpu, "OMP_NUM_THREADS": threads} for gpu in gpu_of]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def train_all(runs: list[Run], slots: list[dict[str, str]], output: Path) -> list[str]:
    """Train the unfinished runs, one per slot at a time; returns the titles of runs that failed.

    Raises:
        UserError: if another such command is using the folder, or Ctrl-C ended this one.
    """
    output.mkdir(parents=True, exist_ok=True)
    for run in runs:
        if run.finished:
            print(f"{run.title}: already finished")
    waiting = [run for run in runs if not run.finished]
    total, failed = len(waiting), []
    free, working = list(slots), []
    with (output / LOCK).open("w") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output} is in use by another ablation: wait until it ends") from None
        try:
            while waiting or working:
                while waiting and free:
                    run, slot = waiting.pop(0), free.pop(0)
                    print(f"{run.title}: {'goes on' if run.begun else 'begins'}, "
                          f"number {total - len(waiting)} of {total}", flush=True)  # fmt: skip
                    working.append((run, start(run, slot, lock.fileno()), slot, time.monotonic()))
                time.sleep(0.1)
                for ended in [item for item in working if item[1].poll() is not None]:
                    working.remove(ended)
                    run, process, slot, began = ended
                    free.append(slot)
                    if not report_end(run, process.returncode, (time.monotonic() - began) / 60):
                        failed.append(run.title)
        except KeyboardInterrupt:
            stop([process for _, process, _, _ in working])
            raise UserError("interrupted: repeat the command to resume the unfinished runs", exit_code=130) from None
    return failed


def start(run: Run, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """Start a training process in its own session, so that Ctrl-C reaches only this script, which requests checkpoints.

    The process also holds the lock. If this script is killed, no second one can start while the runs continue.
    """
    with run.log.open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            run.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=(lock,) if fcntl is not None else (),
        )


def report_end(run: Run, code: int, minutes: float) -> bool:
    """Print how a run ended; returns whether it succeeded."""
    if code == 0 and run.finished:
        print(f"{run.title}: finished after {minutes:.1f} minutes", flush=True)
        return True
    # The progress bar overwrites itself: keep the last version of a line.
    lines = [line.rstrip().rpartition("\r")[2] for line in run.log.read_text("utf-8", "replace").split("\n")]
    last = [line for line in lines if line.strip()][-LINES_OF_A_FAILURE:]
    how = "stopped before its end" if code == 0 else f"failed with exit code {code}"
    print(f"{run.title}: {how} after {minutes:.1f} minutes; the end of {run.log}:", file=sys.stderr)
    print("\n".join(f"    {line}" for line in last), file=sys.stderr, flush=True)
    return False


def stop(processes: list[subprocess.Popen]) -> None:
    """Request checkpoints and wait for them; a second Ctrl-C ends the wait."""
    if processes:
        print(f"stopping {len(processes)} runs at their next step", file=sys.stderr, flush=True)
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.wait()
